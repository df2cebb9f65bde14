/* Inference: KV pool, batches of sequences, logits and log-probabilities. A session is one mutable set of timelines over one model.
 *
 * The pool of each layer is cut into pages of PW_PAGE_ROWS rows. A timeline takes a page when it grows into it and gives it back when it is dropped or
 * rewound, so that nothing is kept for tokens that never come; it may share the pages of another timeline as its prefix (few-shot prompts), which
 * are read where they lie: its own tokens begin on a page of their own. Results of a sequence do not depend on what else is in the batch. */
#ifndef PW_INFER_SESSION_H
#define PW_INFER_SESSION_H

#include "infer/block.h"

struct pw_session;
enum { PW_PAGE_ROWS = 16 };
/* Rows of the pool that a timeline of so many own tokens takes: whole pages. Plans for several timelines are sums of it. */
int64_t pw_session_rows(int64_t tokens);
/* rows: KV rows per layer, rounded up to whole pages; batch_tokens: most tokens of one pass; max_seqs: most timelines. Everything is allocated here. */
int pw_session_open(struct pw_session **out, struct pw_model *m, int64_t rows, int64_t batch_tokens, int max_seqs);
void pw_session_close(struct pw_session *s);
/* Device memory a session takes, for plans: cache, activations (of the adapter that is attached too), some rows of logits and, where they are not host memory, the lists. */
size_t pw_session_bytes(const struct pw_model *m, int64_t rows, int64_t batch_tokens, int max_seqs);
/* And what its ops want of the device's scratch, which others use too. */
size_t pw_session_scratch(const struct pw_model *m, int64_t rows, int64_t batch_tokens);

const struct pw_model *pw_session_model(const struct pw_session *s);
int64_t pw_session_batch_tokens(const struct pw_session *s);

int64_t pw_session_room(const struct pw_session *s);    /* rows of the pages that nobody has */

/* A timeline that may grow to `capacity` tokens of its own, a limit for which nothing is set aside; prefix: another timeline whose present tokens it continues (-1 = none; one
 * level: the prefix has none itself; it must not grow or close while it is shared). Returns its id >= 0. */
int pw_session_add(struct pw_session *s, int64_t capacity, int prefix);
void pw_session_drop(struct pw_session *s, int seq);
void pw_session_reset(struct pw_session *s);            /* drops all */
int pw_session_rewind(struct pw_session *s, int seq, int64_t tokens); /* forgets own tokens past this many */
int64_t pw_session_length(const struct pw_session *s, int seq);       /* with prefix */
/* Models with LongRoPE or dynamic scaling rotate by the length of a whole sequence (rope.h). A timeline takes the rows of the length that it has
 * after its first feed, or of the length that is said here to be coming, before the first feed. When it grows out of these what it
 * holds is stale: pw_session_stale says so of n more tokens, and feeding them is an error until it is rewound to nothing, or, with dynamic scaling, stretched. A prefix
 * that is shared must be of the same rows. Other models: nothing is ever stale. */
int pw_session_expect(struct pw_session *s, int seq, int64_t length);
bool pw_session_stale(const struct pw_session *s, int seq, int64_t n);
/* Dynamic scaling alone: from here on the timeline rotates by this length, and what it holds stays as it was rotated. That is how transformers generates with its cache: each
 * token has the base of the length at which it came. No score of a text is computed so; it is for writing on. */
int pw_session_stretch(struct pw_session *s, int seq, int64_t length);

/* One pass: appends ids[i][0..n[i]) to timeline seq[i]. Rows of the pass are numbered in this order. Fails, changing nothing, when
 * ids are out of range, capacity or context would be exceeded, there are not pages enough, or the batch is too large. */
struct pw_feed { int seq; const int32_t *ids; int64_t n; };
int pw_session_feed(struct pw_session *s, const struct pw_feed *feeds, int n_feeds);
/* Passes of one token a timeline are captured where the device captures steps (kernels/dev.h) and replayed from then on; results have the same bytes.
 * Off: every pass is launched anew. pw_session_replays: passes that were replayed. */
void pw_session_capture(struct pw_session *s, bool on);
int64_t pw_session_replays(const struct pw_session *s);
/* A feed, and the next token of some of its rows (at most one a timeline), drawn where the device computes: ids (n) alone come to the host. draws[i] belongs to
 * rows[i]. Where each row has one it is a part of the captured step. */
int pw_session_next(struct pw_session *s, const struct pw_feed *feeds, int n_feeds, const int32_t *rows, const struct pw_draw *draws, int n, int32_t *ids);
/* After a feed: logits (n, V) f32 in host memory for the given rows of the pass. */
int pw_session_logits(struct pw_session *s, const int32_t *rows, int n, float *logits);
/* After a feed: log P(target) for every row of the pass with target >= 0 (others 0), and the arg max (may be NULL). No full logits. */
int pw_session_logprobs(struct pw_session *s, const int32_t *targets, float *logprobs, int32_t *argmax);
#endif
