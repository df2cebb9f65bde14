/* Examples that say the same twice: near-duplicates inside a data set, and rows of it that an evaluation set holds too.
 *
 * Knows tokens and words, nothing of forms and training. Counts, and one example of each, are what comes out. */
#ifndef PW_DATA_OVERLAP_H
#define PW_DATA_OVERLAP_H

#include "data/dataset.h"

struct pw_overlap { int64_t n, first, like; }; /* examples concerned; the first of them (-1: none) and the example it is like */

/* Examples that share at least 0.8 of their runs of 5 tokens (Jaccard) with an earlier one without being equal to it. Runs that a tenth of the
 * examples have (a template's text) do not count; examples of fewer than 5 other runs are left out. Candidates by minima of hashes (Broder
 * 1997): pairs at 0.8 are missed about once in 500, pairs that do not reach it never reported. */
int pw_overlap_near(const struct pw_dataset *d, struct pw_overlap *out);

/* Rows of d whose words (lower case, punctuation left out) are exactly those of a row of eval; and further ones that share 13 words in a row with it.
 * Runs that more than 2 and more than a twentieth of the rows of eval have (a template's text) do not count. */
int pw_overlap_eval(const struct pw_dataset *d, const struct pw_dataset *eval, const struct pw_tokenizer *t, struct pw_overlap *exact, struct pw_overlap *runs);
#endif
