/* pw lora verify: do two artefacts compute the same? */
#include "tools/artefact.h"

#include <string.h>

struct options { const char *prompts, *left_type, *right_type; double tolerance; };
#define AT(field) offsetof(struct options, field)
static const struct pw_option table[] = {
    {"prompts", 0, PW_OPT_STRING, AT(prompts), "FILE", NULL, NULL, 0, 0, "texts to compare on: one a line, or JSONL with messages, prompt or text; without it built-in ones"},
    {"tolerance", 0, PW_OPT_REAL, AT(tolerance), "X", NULL, "-1", -1, 1e30, "fail (exit 1) when a logit differs by more than this; -1: report only"},
    {"left-type", 0, PW_OPT_STRING, AT(left_type), "TYPE", NULL, NULL, 0, 0, "the type to load LEFT as, in place of --type; stored: as it is"},
    {"right-type", 0, PW_OPT_STRING, AT(right_type), "TYPE", NULL, NULL, 0, 0, "the type to load RIGHT as, in place of --type; stored: as it is"},
    PW_OPTIONS_END,
};

static int side_of(struct pw_cmd *c, struct pw_arena *a, int i, const char *type, struct pw_artefact *out)
{
    PW_PASS(pw_artefact_parse(a, c->args.items[i], out));
    out->type = !type ? c->common->type : strcmp(type, "stored") == 0 ? "" : type;
    out->double_quant = c->common->double_quant && (!type || out->type[0]);
    return 0;
}

static int verify(struct pw_cmd *c)
{
    const struct options *o = c->options;
    struct pw_artefact side[2];
    struct pw_artefact_diff k;
    struct pw_arena a;
    struct pw_json w = {0};
    int rc = 0;
    pw_arena_init(&a);
    PW_CHECK_OUT(c->common->adapters.n == 0, PW_E_USAGE, "--adapter: say which side it belongs to: MODEL+ADAPTER");
    PW_PASS_OUT(side_of(c, &a, 0, o->left_type, &side[0]));
    PW_PASS_OUT(side_of(c, &a, 1, o->right_type, &side[1]));
    PW_PASS_OUT(pw_artefact_compare(&k, c, side, o->prompts, o->tolerance));
    if (c->common->json) {
        pw_json_begin(&w);
        pw_artefact_json(&k, &w);
        PW_PASS_OUT(pw_json_finish(c, &w));
    } else
        pw_artefact_text(&k, c->out);
    if (o->tolerance >= 0 && !(k.r.max_logit_diff <= o->tolerance)) {
        PW_PASS_OUT(pw_cmd_emit(c));      /* the result is printed all the same */
        rc = pw_error(PW_E_FAIL, "the artefacts differ: a logit by %g, more than --tolerance %g (prompt %lld, position %lld, token %d)", k.r.max_logit_diff, o->tolerance,
                      (long long)k.r.worst_prompt, (long long)k.r.worst_position, (int)k.r.worst_token);
    }
out:
    pw_json_free(&w);
    pw_arena_free(&a);
    return rc;
}

const struct pw_command pw_commands_verify[] = {
    {"lora verify", "LEFT RIGHT [--prompts FILE] [--tolerance X]", "do two artefacts compute the same?",
     "LEFT and RIGHT are MODEL or MODEL+ADAPTER[:SCALE]. What exists under the whole name is a model; else the name is cut at the last + behind\n"
     "which a file or folder is. The same texts are fed to both, token by token, and the logits after each token compared. first_difference is the\n"
     "first place (prompt and position, both from 0) where the likeliest next token differs, or a logit by more than --tolerance; \"logits\" are those of the\n"
     "left's token and of the right's. kl is the mean of KL(LEFT || RIGHT) in nats. Models that do not fit together are loaded in turn.\n",
     table, sizeof(struct options), 2, 2, false, verify, .plans = true},
    {NULL},
};
