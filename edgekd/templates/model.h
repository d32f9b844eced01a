/* What the bundle that this file lies in holds, for C and C++. Written by @made_with@ from manifest.json. */

#ifndef EDGEKD_MODEL_H
#define EDGEKD_MODEL_H

#include <stddef.h>
#include <stdint.h>

@facts@

typedef struct {
    const char *precision;
    const char *file; /* this and the next: in the bundle's folder */
    const char *sha256;
    size_t bytes;
    const char *golden_outputs;
    double golden_relative;  /* largest error, as a share of the largest value; below 0: not limited */
    double golden_agreement; /* share of the golden vectors with the same decision, at least */
    float input_scale;       /* 0: the graph does not round its input */
    int input_zero_point;
} edgekd_model_entry;

static const edgekd_model_entry edgekd_models[EDGEKD_MODEL_COUNT] = {
@models@
};

#ifdef EDGEKD_MODEL_EMBEDDED /* the index of the model that edgekd_embed_model() of the CMake package put in here */
#ifdef __cplusplus
extern "C" {
#endif
extern const unsigned char edgekd_model_begin[], edgekd_model_end[];
#ifdef __cplusplus
}
#endif
#endif

#endif
