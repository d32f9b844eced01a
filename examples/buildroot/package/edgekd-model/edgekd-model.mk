################################################################################
#
# edgekd-model
#
################################################################################

EDGEKD_MODEL_VERSION = 1.0
EDGEKD_MODEL_SOURCE = edgekd-model-$(EDGEKD_MODEL_VERSION).tar
EDGEKD_MODEL_SITE = https://artifacts.example.com/edgekd
# The archive has no folder of its own around its files.
EDGEKD_MODEL_STRIP_COMPONENTS = 0
EDGEKD_MODEL_LICENSE = see LICENSES.md
EDGEKD_MODEL_REDISTRIBUTE = NO

# Neither the student nor calibration images, which can reveal what the teacher was trained on.
define EDGEKD_MODEL_INSTALL_TARGET_CMDS
	cd $(@D) && sha256sum --quiet --strict -c SHA256SUMS
	mkdir -p $(TARGET_DIR)/usr/share/edgekd/model/firstboot
	$(INSTALL) -m 0644 $(@D)/manifest.json $(@D)/model-*.onnx $(@D)/golden-* $(TARGET_DIR)/usr/share/edgekd/model/
	$(INSTALL) -m 0644 $(@D)/firstboot/agent.pyz $(TARGET_DIR)/usr/share/edgekd/model/firstboot/
endef

define EDGEKD_MODEL_INSTALL_INIT_SYSTEMD
	$(INSTALL) -D -m 0644 $(@D)/firstboot/edgekd-firstboot.service \
		$(TARGET_DIR)/usr/lib/systemd/system/edgekd-firstboot.service
endef

$(eval $(generic-package))
