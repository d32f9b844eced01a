include $(sort $(wildcard $(BR2_EXTERNAL_EDGEKD_PATH)/package/*/*.mk))
