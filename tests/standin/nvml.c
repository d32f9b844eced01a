/* Stands in for libnvidia-ml where a process loads it. What it supports is in NVML_STANDIN:
   "card" (all), "no-counter", "average" (neither counter nor instant), "jetson" (none), "no-driver". */
#include <stdlib.h>
#include <string.h>
#include <time.h>

typedef struct {
  unsigned field, scope;
  long long timestamp, latency;
  unsigned type, code;
  unsigned long long value;
} field_value;

static int is(const char *kind) {
  const char *said = getenv("NVML_STANDIN");
  return said && strcmp(said, kind) == 0;
}
static double seconds(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return now.tv_sec + now.tv_nsec / 1e9;
}
int nvmlInit_v2(void) { return is("no-driver") ? 9 : 0; }
int nvmlShutdown(void) { return 0; }
int nvmlDeviceGetHandleByIndex_v2(unsigned number, void **handle) {
  if (number) return 2;
  *handle = (void *)0xCA4D;
  return 0;
}
int nvmlDeviceGetName(void *card, char *name, unsigned size) {
  if (card != (void *)0xCA4D) return 2;
  strncpy(name, is("jetson") ? "Orin (nvgpu)" : "Stand-in 9000", size);
  return 0;
}
/* 100 W, shown every 100 ms. */
int nvmlDeviceGetTotalEnergyConsumption(void *card, unsigned long long *millijoules) {
  if (is("jetson") || is("no-counter") || is("average")) return 3;
  *millijoules = (unsigned long long)(seconds() * 10) * 10000;
  return 0;
}
int nvmlDeviceGetPowerUsage(void *card, unsigned *milliwatts) {
  if (is("jetson")) return 3;
  *milliwatts = 90000;
  return 0;
}
int nvmlDeviceGetFieldValues(void *card, int count, field_value *values) {
  values[0].code = is("jetson") || is("average") || values[0].field != 186 ? 3 : 0;
  values[0].value = 0xFFFFFFFF00000000ull | 100000;
  return 0;
}
int nvmlDeviceGetTemperature(void *card, int sensor, unsigned *celsius) {
  if (is("jetson")) return 3;
  *celsius = 61;
  return 0;
}
int nvmlDeviceGetClockInfo(void *card, int kind, unsigned *megahertz) {
  if (is("jetson")) return 3;
  *megahertz = 1980;
  return 0;
}
int nvmlDeviceGetCurrentClocksThrottleReasons(void *card, unsigned long long *bits) {
  if (is("jetson")) return 3;
  *bits = 0x1 | 0x40;
  return 0;
}
