/* Comparing two artefacts for commands: reading the prompts, MODEL[+ADAPTER[:SCALE]] as given, loading both sides (one at a time when
 * both do not fit), and the result as JSON and as text. For pw lora verify and pw lora merge. */
#ifndef PW_TOOLS_ARTEFACT_H
#define PW_TOOLS_ARTEFACT_H

#include "infer/verify.h"
#include "tools/load.h"

struct pw_artefact {
    const char *model;
    const char *adapter;       /* PATH[:SCALE], or NULL */
    const char *type;          /* as --type: of this side */
    bool double_quant;
    bool same_tokenizer;       /* of the right side: it has that of the left by construction; none is loaded */
    bool force;                /* the adapter was checked already, or is used on another base knowingly */
    size_t keep_bytes;         /* of the left side: for rows of logits that are kept; 0: a sixteenth of --memory */
};
/* What exists under the whole name is a MODEL. Else the name is cut at the last + behind which something exists (with :SCALE taken off),
 * and at the first + when nothing does, so that the message names what is missing. Strings in the arena. */
int pw_artefact_parse(struct pw_arena *a, const char *given, struct pw_artefact *out);

struct pw_artefact_diff { struct pw_verify_result r; char left_text[64], right_text[64]; bool one_at_a_time; };
/* prompts: a file, or NULL for the built-in texts; messages are rendered with the left's template. Tokenizers that differ are refused. */
int pw_artefact_compare(struct pw_artefact_diff *out, const struct pw_cmd *c, const struct pw_artefact side[2], const char *prompts, double tolerance);
/* Before the right side is there: would comparing keep --memory, one side at a time? left with the adapter a that was read already, right of right_bytes
 * and the same shape. PW_E_REFUSED with the plan; else left->keep_bytes is set to what is over. Nothing without a limit. */
int pw_artefact_plan(struct pw_artefact *left, const struct pw_adapter *a, uint64_t right_bytes, const struct pw_cmd *c, const char *prompts);
void pw_artefact_json(const struct pw_artefact_diff *k, struct pw_json *w);   /* the fields, into an open object */
void pw_artefact_text(const struct pw_artefact_diff *k, struct pw_buf *out);
#endif
