/* The tables of the 4-bit formats: code values of NF4 and FP4, thresholds of NF4. The numbers and where they are from: kernels/codes.h. */
#include "kernels/codes.h"
#include "kernels/weight.h"

const float pw_nf4_table[16] = { PW_NF4_VALUES };
const float pw_nf4_threshold[15] = { PW_NF4_THRESHOLDS };
const float pw_fp4_table[16] = { PW_FP4_VALUES };
