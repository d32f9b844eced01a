/* Times an ONNX model through ONNX Runtime's C API, by the rules of the agent (bench/agent/latency.py).

   timing LIBRARY MODEL THREADS INPUT INPUT_NAME OUTPUT OUTPUT_NAME MIN_S MAX_S SECONDS MAX_RUNS SIZE...

   INPUT holds the raw float32 values of the only input, of shape SIZE...; the values of the only output go to OUTPUT.
   Printed are lines of a word and values: version, first_ns, warmup_runs, stationary, values_ns.

   The wheel brings the library and no header, so the part of the API that is needed is declared here: functions by their
   place in the table of version 1, which later versions only append to. Who runs this compares version and output
   with Python's. */

#include <dlfcn.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { API_VERSION = 1, FLOAT32 = 1, LOG_ERRORS = 3, OPTIMISE_ALL = 99, DEVICE_ALLOCATOR = 0, MEMORY_DEFAULT = 0 };
enum { CHECK_EVERY_NS = 100000000, MIN_WARMUP_RUNS = 50, MIN_WINDOW = 10 };
static const double STEADY = 0.01;

/* All of the runtime's own types are only ever held by a pointer. */
typedef struct { void *const *(*table)(uint32_t); const char *(*version)(void); } Base;
typedef const char *(*ErrorMessage)(void *);
typedef void *(*CreateEnv)(int, const char *, void **);
typedef void *(*CreateSession)(void *, const char *, void *, void **);
typedef void *(*Run)(void *, void *, const char *const *, const void *const *, size_t, const char *const *, size_t, void **);
typedef void *(*CreateOptions)(void **);
typedef void *(*Enable)(void *);
typedef void *(*SetNumber)(void *, int);
typedef void *(*CreateTensor)(void *, void *, size_t, const int64_t *, size_t, int, void **);
typedef void *(*TensorData)(void *, void **);
typedef void *(*Count)(void *, size_t *);
typedef void *(*TypeAndShape)(void *, void **);
typedef void *(*CreateMemoryInfo)(int, int, void **);

enum {
    ERROR_MESSAGE = 2, CREATE_ENV = 3, CREATE_SESSION = 7, RUN = 9, CREATE_OPTIONS = 10, ENABLE_MEMORY_PATTERN = 16,
    ENABLE_ARENA = 18, SET_OPTIMISATION = 23, SET_INTRA_THREADS = 24, SET_INTER_THREADS = 25, INPUT_COUNT = 30,
    OUTPUT_COUNT = 31, CREATE_TENSOR = 49, TENSOR_DATA = 51, ELEMENT_TYPE = 60, ELEMENT_COUNT = 64, TYPE_AND_SHAPE = 65,
    CREATE_MEMORY_INFO = 69
};

static void *const *api;

static void fail(const char *what, const char *why)
{
    fprintf(stderr, "%s: %s\n", what, why);
    exit(1);
}

static void check(const char *what, void *status)
{
    if (status)
        fail(what, ((ErrorMessage)api[ERROR_MESSAGE])(status));
}

static int64_t now(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (int64_t)time.tv_sec * 1000000000 + time.tv_nsec;
}

/* --- the rules of the warm-up ---------------------------------------------------------------- */

typedef struct { int64_t *values; size_t count, room; } Times;

static void add(Times *times, int64_t value)
{
    if (times->count == times->room) {
        times->room = times->room ? 2 * times->room : 4096;
        times->values = realloc(times->values, times->room * sizeof *times->values);
        if (!times->values)
            fail("times", "out of memory");
    }
    times->values[times->count++] = value;
}

static int by_size(const void *one, const void *other)
{
    int64_t a = *(const int64_t *)one, b = *(const int64_t *)other;
    return (a > b) - (a < b);
}

static double median(const int64_t *values, size_t count)
{
    int64_t *ordered = malloc(count * sizeof *ordered);
    if (!ordered)
        fail("median", "out of memory");
    memcpy(ordered, values, count * sizeof *ordered);
    qsort(ordered, count, sizeof *ordered, by_size);
    double middle = count % 2 ? (double)ordered[count / 2]
                              : ((double)ordered[count / 2 - 1] + (double)ordered[count / 2]) / 2;
    free(ordered);
    return middle;
}

static int is_stationary(const Times *times)
{
    size_t window = times->count / 5 > MIN_WINDOW ? times->count / 5 : MIN_WINDOW;
    if (times->count < MIN_WINDOW)
        return 0;
    const int64_t *last = times->values + times->count - window;
    double before = median(last, window / 2), after = median(last + window / 2, window - window / 2);
    double change = after > before ? after - before : before - after, level = before > 1 ? before : 1;
    return change <= STEADY * level;
}

/* --- one model ------------------------------------------------------------------------------- */

static struct {
    void *session, *input, *output; /* the output's memory is taken at the first call and written to by all */
    const char *input_name, *output_name;
} model;

static int64_t timed_call(void)
{
    int64_t start = now();
    void *status = ((Run)api[RUN])(model.session, NULL, &model.input_name, (const void *const *)&model.input, 1,
                                   &model.output_name, 1, &model.output);
    int64_t end = now();
    check("run", status);
    return end - start;
}

static float *read_input(const char *path, size_t count)
{
    float *values = malloc(count * sizeof *values);
    FILE *file = fopen(path, "rb");
    if (!values || !file || fread(values, sizeof *values, count, file) != count || fgetc(file) != EOF)
        fail(path, "not as many values as the shape says");
    fclose(file);
    return values;
}

static void write_output(const char *path)
{
    void *data, *info;
    size_t count;
    int type;
    check("output", ((TypeAndShape)api[TYPE_AND_SHAPE])(model.output, &info));
    check("output", ((Count)api[ELEMENT_COUNT])(info, &count));
    check("output", ((void *(*)(void *, int *))api[ELEMENT_TYPE])(info, &type));
    if (type != FLOAT32)
        fail("output", "no float32");
    check("output", ((TensorData)api[TENSOR_DATA])(model.output, &data));
    FILE *file = fopen(path, "wb");
    if (!file || fwrite(data, sizeof(float), count, file) != count || fclose(file))
        fail(path, "cannot be written");
}

static void open_model(const char *path, int threads)
{
    void *env, *options;
    size_t inputs, outputs;
    check("environment", ((CreateEnv)api[CREATE_ENV])(LOG_ERRORS, "timing", &env));
    check("options", ((CreateOptions)api[CREATE_OPTIONS])(&options));
    check("options", ((SetNumber)api[SET_INTRA_THREADS])(options, threads));
    check("options", ((SetNumber)api[SET_INTER_THREADS])(options, 1));
    check("options", ((SetNumber)api[SET_OPTIMISATION])(options, OPTIMISE_ALL));
    check("options", ((Enable)api[ENABLE_ARENA])(options));
    check("options", ((Enable)api[ENABLE_MEMORY_PATTERN])(options));
    check("session", ((CreateSession)api[CREATE_SESSION])(env, path, options, &model.session));
    check("session", ((Count)api[INPUT_COUNT])(model.session, &inputs));
    check("session", ((Count)api[OUTPUT_COUNT])(model.session, &outputs));
    if (inputs != 1 || outputs != 1)
        fail(path, "not one input and one output");
}

static void bind_input(const char *path, const int64_t *sizes, size_t rank)
{
    void *memory;
    size_t count = 1;
    for (size_t at = 0; at < rank; at++)
        count *= (size_t)sizes[at];
    float *values = read_input(path, count);
    check("memory", ((CreateMemoryInfo)api[CREATE_MEMORY_INFO])(DEVICE_ALLOCATOR, MEMORY_DEFAULT, &memory));
    check("input", ((CreateTensor)api[CREATE_TENSOR])(memory, values, count * sizeof *values, sizes, rank, FLOAT32,
                                                       &model.input));
}

static void load_runtime(const char *path)
{
    void *library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    if (!library)
        fail(path, dlerror());
    const Base *(*base)(void) = (const Base *(*)(void))dlsym(library, "OrtGetApiBase");
    if (!base)
        fail(path, dlerror());
    api = base()->table(API_VERSION);
    if (!api)
        fail(path, "does not offer version 1 of the API");
    printf("version %s\n", base()->version());
}

static void warm_up(double min_s, double max_s)
{
    Times times = {0};
    int64_t begin = now(), check_at = begin + (int64_t)(min_s * 1e9), end_at = begin + (int64_t)(max_s * 1e9);
    for (;;) {
        add(&times, timed_call());
        int64_t end = now();
        if (end < check_at)
            continue;
        check_at = end + CHECK_EVERY_NS;
        int steady = times.count >= MIN_WARMUP_RUNS && is_stationary(&times);
        if (steady || end >= end_at) {
            printf("warmup_runs %zu\nstationary %d\n", times.count, steady);
            free(times.values);
            return;
        }
    }
}

int main(int count, char **words)
{
    enum { LIBRARY = 1, MODEL, THREADS, INPUT, INPUT_NAME, OUTPUT, OUTPUT_NAME, MIN_S, MAX_S, SECONDS, MAX_RUNS, SIZES };
    int64_t sizes[8];
    size_t rank = count > SIZES ? (size_t)(count - SIZES) : 0;
    if (rank < 1 || rank > sizeof sizes / sizeof *sizes)
        fail(words[0], "wrong arguments; see the head of timing.c");
    for (size_t at = 0; at < rank; at++)
        sizes[at] = atoll(words[SIZES + at]);
    load_runtime(words[LIBRARY]);
    open_model(words[MODEL], atoi(words[THREADS]));
    bind_input(words[INPUT], sizes, rank);
    model.input_name = words[INPUT_NAME];
    model.output_name = words[OUTPUT_NAME];
    printf("first_ns %lld\n", (long long)timed_call());
    warm_up(atof(words[MIN_S]), atof(words[MAX_S]));

    Times times = {0};
    size_t max_runs = (size_t)atoll(words[MAX_RUNS]);
    int64_t end_at = now() + (int64_t)(atof(words[SECONDS]) * 1e9);
    do
        add(&times, timed_call());
    while (times.count < max_runs && now() < end_at);
    printf("values_ns");
    for (size_t at = 0; at < times.count; at++)
        printf(" %lld", (long long)times.values[at]);
    printf("\n");
    write_output(words[OUTPUT]);
    return fflush(stdout) ? 1 : 0;
}
