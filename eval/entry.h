/* Contest entries: one deterministic archive that holds an adapter, how it was made, what it scored, and the hashes that bind them.
 *
 * In a pack: adapter/ (PEFT), recipe.yaml, base.json and tuned.json (scores), samples.jsonl (the scored documents, so that anybody who has
 * the base can score again without the data set), log.jsonl, card.md, manifest.json (names, sizes and SHA-256 of all others). */
#ifndef PW_EVAL_ENTRY_H
#define PW_EVAL_ENTRY_H

#include "base/value.h"
#include "data/tokenizer.h"
#include "infer/model.h"

/* Packs a run folder. adapter/ and recipe.yaml must be there; scores and log when they are. */
int pw_entry_build(const char *run, const char *out, bool force, struct pw_json *report);

struct pw_entry;
/* Reads and verifies a pack: archive, manifest, hashes, the adapter's own form. Anything that is not as it says is an error. */
int pw_entry_open(struct pw_entry **out, const char *path);
void pw_entry_close(struct pw_entry *e);
const struct pw_adapter *pw_entry_adapter(const struct pw_entry *e);
bool pw_entry_has_samples(const struct pw_entry *e);
bool pw_entry_has_scores(const struct pw_entry *e);
/* Scores the pack's samples again: model with the adapter attached. limit 0: all. The largest difference of a log-probability and the
 * number of picks that changed; an error when a pick changed or the difference exceeds `bound`. */
struct pw_entry_scores { int64_t documents, picks_changed; double max_difference, acc_recorded, acc_again; };
int pw_entry_score(struct pw_entry *e, struct pw_model *m, const struct pw_tokenizer *t, int64_t limit, double bound, struct pw_entry_scores *s);
void pw_entry_json(const struct pw_entry *e, struct pw_json *w); /* files, adapter, scores */
#endif
