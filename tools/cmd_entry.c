/* pw entry: the packs of contest entries. */
#include <math.h>

#include "eval/entry.h"
#include "tools/load.h"

struct entry_options { const char *out, *model; int64_t limit; double bound; };
#define AT(field) offsetof(struct entry_options, field)
static const struct pw_option build_options[] = {
    {"out", 'o', PW_OPT_STRING, AT(out), "FILE", NULL, NULL, 0, 0, "the pack to write, entry.tar.zst"},
    PW_OPTIONS_END,
};
static const struct pw_option check_options[] = {
    {"model", 0, PW_OPT_STRING, AT(model), "MODEL", NULL, NULL, 0, 0, "the base: the pack's samples are scored again with it"},
    {"limit", 0, PW_OPT_INT, AT(limit), "N", NULL, "0", 0, 1e9, "score only the first N samples again; 0: all"},
    {"bound", 0, PW_OPT_REAL, AT(bound), "X", NULL, "0.001", 0, 1e3, "largest difference of a log-probability that passes"},
    PW_OPTIONS_END,
};

static int entry_build(struct pw_cmd *c)
{
    const struct entry_options *o = c->options;
    struct pw_json w = {0};
    PW_CHECK(o->out, PW_E_USAGE, "-o FILE is missing: where should the pack go?");
    w.indent = !c->common->json;
    pw_json_begin(&w);
    int rc = pw_entry_build(c->args.items[0], o->out, c->common->force, &w);
    if (rc == 0)
        return pw_json_finish(c, &w);
    pw_json_free(&w);
    return rc;
}

static int score_again(struct pw_cmd *c, struct pw_entry *e, struct pw_json *w)
{
    const struct entry_options *o = c->options;
    struct pw_entry_scores s;
    struct pw_loaded l = {0};
    int rc = 0;
    PW_CHECK(c->common->adapters.n == 0, PW_E_USAGE, "--adapter: the pack brings its own");
    pw_cmd_plans();
    PW_PASS_OUT(pw_load(&l, c, o->model, true));
    PW_PASS_OUT(pw_adapter_check_base(pw_entry_adapter(e), l.model->checkpoint, c->common->type, c->common->double_quant, c->common->force, c->progress));
    PW_PASS_OUT(pw_model_attach(l.model, pw_entry_adapter(e)));
    if (!pw_entry_has_samples(e) && !pw_entry_has_scores(e)) { /* the pack claims no scores: the adapter fits its base, and that is all there is to check */
        pw_progress_say(c->progress, "%s holds no samples: no score is repeated", c->args.items[0]);
        pw_json_null(w, "rescored");
        goto out;
    }
    PW_PASS_OUT(pw_entry_score(e, l.model, l.tokenizer, o->limit, o->bound, &s));
    pw_json_open(w, "rescored", '{');
    pw_json_i64(w, "documents", s.documents);
    pw_json_f64(w, "max_difference", s.max_difference);
    pw_json_i64(w, "picks_changed", s.picks_changed);
    pw_json_f64(w, "acc_recorded", s.acc_recorded);
    pw_json_f64(w, "acc", s.acc_again);
    pw_json_close(w, '}');
out:
    pw_unload(&l);
    return rc;
}

static int entry_check(struct pw_cmd *c)
{
    const struct entry_options *o = c->options;
    struct pw_entry *e = NULL;
    struct pw_json w = {0};
    int rc = 0;
    PW_PASS_OUT(pw_entry_open(&e, c->args.items[0]));
    w.indent = !c->common->json;
    pw_json_begin(&w);
    pw_entry_json(e, &w);
    if (o->model) {
        PW_PASS_OUT(score_again(c, e, &w));
    } else
        pw_json_null(&w, "rescored");
    pw_json_bool(&w, "ok", true);
    PW_PASS_OUT(pw_json_finish(c, &w));
out:
    pw_json_free(&w);
    pw_entry_close(e);
    return rc;
}

const struct pw_command pw_commands_entry[] = {
    {"entry build", "RUN -o entry.tar.zst", "pack a run for a contest: adapter, recipe, scores, hashes",
     "RUN is the folder of pw train. Scores are taken from RUN/base.json and RUN/tuned.json, as pw eval run -o wrote them, and the scored\n"
     "documents from RUN/tuned.samples.jsonl (--samples). The same folder always gives the same bytes.",
     build_options, sizeof(struct entry_options), 1, 1, false, entry_build},
    {"entry check", "entry.tar.zst [--model MODEL]", "verify a pack, and score it again",
     "Checks the archive, every hash and the adapter. With --model the adapter is put on that base, the samples of the pack are scored\n"
     "again, and every log-probability must agree with the recorded one, and tuned.json with the samples. A pack without scores is\n"
     "put on the base all the same; \"rescored\" is then null.",
     check_options, sizeof(struct entry_options), 1, 1, false, entry_check},
    {0},
};
