/* Training runs against what PyTorch and peft made of the same rows from the same adapter: losses, gradient norms, rates and counts of every
 * step, and the adapter at the end. Shared by test_train_golden.c and test_adapter_golden.c. */
#ifndef PW_TESTS_GOLDEN_H
#define PW_TESTS_GOLDEN_H

#include "base/value.h"
#include "kernels/tensor.h"

enum { GOLDEN_STEPS = 20 };
double golden_number(const struct pw_value *map, const char *key);       /* it must be there */
double golden_distance(struct pw_tensor ours, struct pw_tensor theirs);  /* |ours - theirs| / |theirs|, f32 */
/* A recipe's text run to its end, then its log and adapter against `one` and the adapter in `theirs`; before: where both began. theirs NULL: the log alone. */
void golden_run(const char *text, const struct pw_value *one, const char *device, const char *theirs, const char *before, double bound);
#endif
