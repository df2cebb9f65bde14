/* Parsers of untrusted bytes as functions of bytes: for libFuzzer (make fuzz) and for the corpus test of make check.
 * A target must return whatever the bytes are; crashes, leaks and sanitizer reports are the failures. */
#ifndef PW_TESTS_FUZZ_TARGETS_H
#define PW_TESTS_FUZZ_TARGETS_H
#include <stddef.h>
#include <stdint.h>

struct fuzz_target { const char *name; void (*run)(const uint8_t *bytes, size_t n); };
extern const struct fuzz_target fuzz_targets[]; /* ends with a NULL name */
#endif
