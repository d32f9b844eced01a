/* Runs the model of a bundle through ONNX Runtime's C API on the bundle's golden vectors.

   selftest BUNDLE [PRECISION]

   Exits 0 where every answer is within the bundle's tolerances, 1 where one is not, 2 where it cannot be tried. */

#include <edgekd/model.h>
#include <math.h>
#include <onnxruntime_c_api.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Version 1 of the API has all that is needed here, and every later runtime offers it. */
enum { API = 1 };

static const OrtApi *ort;

static void fail(const char *what, const char *why)
{
    fprintf(stderr, "%s: %s\n", what, why);
    exit(2);
}

static void check(const char *what, OrtStatus *status)
{
    if (status)
        fail(what, ort->GetErrorMessage(status));
}

static const edgekd_model_entry *chosen(const char *precision)
{
    for (size_t at = 0; at < EDGEKD_MODEL_COUNT; at++)
        if (!strcmp(edgekd_models[at].precision, precision))
            return &edgekd_models[at];
    fail(precision, "the bundle has no such model");
    return NULL;
}

static void join(char *path, size_t room, const char *folder, const char *name)
{
    if ((size_t)snprintf(path, room, "%s/%s", folder, name) >= room)
        fail(name, "its path is too long");
}

/* All vectors of a file, which must hold neither more nor less. */
static unsigned char *read_vectors(const char *folder, const char *name, size_t bytes)
{
    char path[4096];
    join(path, sizeof path, folder, name);
    size_t wanted = EDGEKD_MODEL_GOLDEN_COUNT * bytes;
    unsigned char *data = malloc(wanted);
    FILE *file = fopen(path, "rb");
    if (!data || !file || fread(data, 1, wanted, file) != wanted || fgetc(file) != EOF)
        fail(path, "cannot be read, or is not as long as the header says");
    fclose(file);
    return data;
}

static OrtSession *open_model(const OrtEnv *env, const char *folder, const edgekd_model_entry *model)
{
    OrtSessionOptions *options;
    OrtSession *session;
    check("options", ort->CreateSessionOptions(&options));
    check("options", ort->SetIntraOpNumThreads(options, 1));
#ifdef EDGEKD_MODEL_EMBEDDED
    (void)folder;
    size_t bytes = (size_t)(edgekd_model_end - edgekd_model_begin);
    if (bytes != model->bytes)
        fail(model->file, "what is embedded has another size");
    check(model->file, ort->CreateSessionFromArray(env, edgekd_model_begin, bytes, options, &session));
#else
    char path[4096];
    join(path, sizeof path, folder, model->file);
    check(path, ort->CreateSession(env, path, options, &session));
#endif
    ort->ReleaseSessionOptions(options);
    return session;
}

/* One inference; the answer goes to memory of EDGEKD_MODEL_OUTPUT_BYTES. */
static void run(OrtSession *session, const OrtMemoryInfo *memory, void *given, void *answer)
{
    static const char *const input_names[] = {EDGEKD_MODEL_INPUT_NAME};
    static const char *const output_names[] = {EDGEKD_MODEL_OUTPUT_NAME};
    OrtValue *input, *output;
    check("input", ort->CreateTensorWithDataAsOrtValue(memory, given, EDGEKD_MODEL_INPUT_BYTES, edgekd_model_input_shape,
                                                       EDGEKD_MODEL_INPUT_RANK, (ONNXTensorElementDataType)EDGEKD_MODEL_INPUT_TYPE,
                                                       &input));
    check("output", ort->CreateTensorWithDataAsOrtValue(memory, answer, EDGEKD_MODEL_OUTPUT_BYTES, edgekd_model_output_shape,
                                                        EDGEKD_MODEL_OUTPUT_RANK,
                                                        (ONNXTensorElementDataType)EDGEKD_MODEL_OUTPUT_TYPE, &output));
    check("run", ort->Run(session, NULL, input_names, (const OrtValue *const *)&input, 1, output_names, 1, &output));
    ort->ReleaseValue(input);
    ort->ReleaseValue(output);
}

static double value(const unsigned char *data, size_t at)
{
#if EDGEKD_MODEL_OUTPUT_TYPE == 1
    float found;
#elif EDGEKD_MODEL_OUTPUT_TYPE == 6
    int32_t found;
#elif EDGEKD_MODEL_OUTPUT_TYPE == 7
    int64_t found;
#else
#error "values of this type are not compared here"
#endif
    memcpy(&found, data + at * sizeof found, sizeof found);
    return (double)found;
}

/* The place of the largest of several values; of one value, the value: it is a decision already. */
static double decision(const unsigned char *data)
{
    size_t best = 0;
    if (EDGEKD_MODEL_OUTPUT_VALUES == 1)
        return value(data, 0);
    for (size_t at = 1; at < EDGEKD_MODEL_OUTPUT_VALUES; at++)
        if (value(data, at) > value(data, best))
            best = at;
    return (double)best;
}

int main(int count, char **words)
{
    if (count < 2 || count > 3)
        fail(words[0], "BUNDLE [PRECISION]");
#ifdef EDGEKD_MODEL_EMBEDDED
    const edgekd_model_entry *model = &edgekd_models[EDGEKD_MODEL_EMBEDDED];
    if (count == 3 && model != chosen(words[2]))
        fail(words[2], "another model is embedded");
#else
    const edgekd_model_entry *model = count == 3 ? chosen(words[2]) : &edgekd_models[EDGEKD_MODEL_DEFAULT];
#endif
    unsigned char *inputs = read_vectors(words[1], EDGEKD_MODEL_GOLDEN_INPUTS, EDGEKD_MODEL_INPUT_BYTES);
    unsigned char *expected = read_vectors(words[1], model->golden_outputs, EDGEKD_MODEL_OUTPUT_BYTES);

    ort = OrtGetApiBase()->GetApi(API);
    if (!ort)
        fail("ONNX Runtime", "does not offer version 1 of its API");
    OrtEnv *env;
    OrtMemoryInfo *memory;
    check("environment", ort->CreateEnv(ORT_LOGGING_LEVEL_ERROR, "selftest", &env));
    check("memory", ort->CreateCpuMemoryInfo(OrtDeviceAllocator, OrtMemTypeDefault, &memory));
    OrtSession *session = open_model(env, words[1], model);

    static unsigned char answer[EDGEKD_MODEL_OUTPUT_BYTES];
    double worst = 0, largest = 0;
    int same = 0, finite = 1;
    for (size_t number = 0; number < EDGEKD_MODEL_GOLDEN_COUNT; number++) {
        const unsigned char *wanted = expected + number * EDGEKD_MODEL_OUTPUT_BYTES;
        run(session, memory, inputs + number * EDGEKD_MODEL_INPUT_BYTES, answer);
        for (size_t at = 0; at < EDGEKD_MODEL_OUTPUT_VALUES; at++) {
            finite = finite && isfinite(value(answer, at));
            worst = fmax(worst, fabs(value(answer, at) - value(wanted, at)));
            largest = fmax(largest, fabs(value(wanted, at)));
        }
        same += decision(answer) == decision(wanted);
    }
    double agreement = (double)same / EDGEKD_MODEL_GOLDEN_COUNT;
    int close = model->golden_relative < 0 || worst <= model->golden_relative * largest;
    int passed = finite && close && agreement >= model->golden_agreement;
    printf("%s: %s on ONNX Runtime %s: %d of %d decided as golden, largest error %.3g of %.3g\n",
           passed ? "passed" : "FAILED", model->file, OrtGetApiBase()->GetVersionString(), same, EDGEKD_MODEL_GOLDEN_COUNT,
           worst, largest);

    ort->ReleaseSession(session);
    ort->ReleaseMemoryInfo(memory);
    ort->ReleaseEnv(env);
    free(inputs);
    free(expected);
    return passed ? 0 : 1;
}
