/* The part of ONNX Runtime's C API that selftest.c calls, for machines that have the library alone, as Python's wheels
   do. Where the runtime's own header is installed, CMake takes that.

   Functions have their places in the table of version 1 of the API; later versions only append to it. */

#ifndef ONNXRUNTIME_C_API_PART_H
#define ONNXRUNTIME_C_API_PART_H

#include <stddef.h>
#include <stdint.h>

typedef struct OrtEnv OrtEnv;
typedef struct OrtMemoryInfo OrtMemoryInfo;
typedef struct OrtRunOptions OrtRunOptions;
typedef struct OrtSession OrtSession;
typedef struct OrtSessionOptions OrtSessionOptions;
typedef struct OrtStatus OrtStatus;
typedef struct OrtValue OrtValue;

typedef enum { ORT_LOGGING_LEVEL_ERROR = 3 } OrtLoggingLevel;
typedef enum { OrtDeviceAllocator = 0 } OrtAllocatorType;
typedef enum { OrtMemTypeDefault = 0 } OrtMemType;
typedef int ONNXTensorElementDataType;
typedef void (*OrtUnused)(void);

typedef struct {
    OrtUnused unused_0[2];
    const char *(*GetErrorMessage)(const OrtStatus *); /* 2 */
    OrtStatus *(*CreateEnv)(OrtLoggingLevel, const char *, OrtEnv **);
    OrtUnused unused_4[3];
    OrtStatus *(*CreateSession)(const OrtEnv *, const char *, const OrtSessionOptions *, OrtSession **); /* 7 */
    OrtStatus *(*CreateSessionFromArray)(const OrtEnv *, const void *, size_t, const OrtSessionOptions *, OrtSession **);
    OrtStatus *(*Run)(OrtSession *, const OrtRunOptions *, const char *const *, const OrtValue *const *, size_t,
                      const char *const *, size_t, OrtValue **);
    OrtStatus *(*CreateSessionOptions)(OrtSessionOptions **); /* 10 */
    OrtUnused unused_11[13];
    OrtStatus *(*SetIntraOpNumThreads)(OrtSessionOptions *, int); /* 24 */
    OrtUnused unused_25[24];
    OrtStatus *(*CreateTensorWithDataAsOrtValue)(const OrtMemoryInfo *, void *, size_t, const int64_t *, size_t,
                                                 ONNXTensorElementDataType, OrtValue **); /* 49 */
    OrtUnused unused_50[19];
    OrtStatus *(*CreateCpuMemoryInfo)(OrtAllocatorType, OrtMemType, OrtMemoryInfo **); /* 69 */
    OrtUnused unused_70[22];
    void (*ReleaseEnv)(OrtEnv *); /* 92 */
    OrtUnused unused_93[1];
    void (*ReleaseMemoryInfo)(OrtMemoryInfo *); /* 94 */
    void (*ReleaseSession)(OrtSession *);
    void (*ReleaseValue)(OrtValue *); /* 96 */
    OrtUnused unused_97[3];
    void (*ReleaseSessionOptions)(OrtSessionOptions *); /* 100 */
} OrtApi;

typedef struct {
    const OrtApi *(*GetApi)(uint32_t version);
    const char *(*GetVersionString)(void);
} OrtApiBase;

const OrtApiBase *OrtGetApiBase(void);

#endif
