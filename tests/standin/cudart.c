/* Stands in for libcudart where a process loads it: device memory is the host's. */
#include <stdlib.h>
#include <string.h>
int cudaStreamCreate(void **stream) { *stream = (void *)0xE0; return 0; }
int cudaStreamDestroy(void *stream) { return 0; }
int cudaStreamSynchronize(void *stream) { return stream == (void *)0xE0 ? 0 : 400; }
int cudaDeviceGetAttribute(int *value, int attribute, int device) { *value = attribute == 75 ? 8 : 7; return 0; }
int cudaMalloc(void **pointer, size_t size) { *pointer = malloc(size); return *pointer ? 0 : 2; }
int cudaFree(void *pointer) { free(pointer); return 0; }
int cudaMemcpy(void *to, const void *from, size_t size, int kind) { memcpy(to, from, size); return 0; }
