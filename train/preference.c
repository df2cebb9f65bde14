/* See preference.h. */
#include "train/preference.h"

#include <math.h>
#include <string.h>

#include "base/error.h"
#include "base/rng.h"

enum { PARTNER_STREAM = 255 };      /* of PW_STREAM_SHUFFLE: epochs count from 0 in bits 8 and up */

static size_t reference_bytes(const struct pw_objective *o, const struct pw_dataset *d)
{
    size_t n = d && pw_objective_reference(o) ? (size_t)d->n_rows : 0;
    return n * (o->kind == PW_OBJECTIVE_KTO ? 2 * sizeof(double) + sizeof(uint32_t) : sizeof(double));
}

static int64_t first_trained(const struct pw_dataset *d, int64_t row)
{
    int64_t i = d->row_start[row];
    while (i < d->row_start[row + 1] && !d->trained[i])
        i++;
    return i;
}

int64_t pw_preference_longest(const struct pw_objective *o, const struct pw_dataset *d, int64_t max_length)
{
    int64_t prompt = 0, answer = 0;
    if (o->kind != PW_OBJECTIVE_KTO)
        return d->longest;
    for (int64_t row = 0; row < d->n_rows; row++) {
        const int64_t first = first_trained(d, row), before = first - d->row_start[row], after = d->row_start[row + 1] - first;
        prompt = before > prompt ? before : prompt;
        answer = after > answer ? after : answer;
    }
    const int64_t both = prompt + answer < max_length ? prompt + answer : max_length;
    return both > d->longest ? both : d->longest;
}

size_t pw_preference_bytes(const struct pw_objective *o, const struct pw_dataset *train, const struct pw_dataset *eval, int64_t most_rows)
{
    if (o->kind == PW_OBJECTIVE_TOKENS)
        return 0;
    return reference_bytes(o, train) + (eval == train ? 0 : reference_bytes(o, eval)) + (size_t)most_rows * sizeof(double);
}

static int place_reference(struct pw_reference *r, const struct pw_objective *o, struct pw_arena *a, const struct pw_dataset *d)
{
    size_t n = (size_t)d->n_rows;
    bool kto = o->kind == PW_OBJECTIVE_KTO;
    *r = (struct pw_reference){.data = d};
    if (!pw_objective_reference(o))
        return 0;
    r->logp = pw_arena_array(a, n, sizeof *r->logp);
    r->moved = kto ? pw_arena_array(a, n, sizeof *r->moved) : NULL;
    r->partner = kto ? pw_arena_array(a, n, sizeof *r->partner) : NULL;
    PW_CHECK(r->logp && (!kto || (r->moved && r->partner)), PW_E_NOMEM, "out of memory for the reference of %zu rows", n);
    for (size_t i = 0; i < n; i++) {
        r->logp[i] = NAN;
        if (kto)
            r->moved[i] = NAN;
    }
    return 0;
}

/* A ring through the rows that take part, in their order or in a drawn one: each row's partner is the next. */
static int draw_partners(struct pw_reference *r, const uint32_t *rows, int64_t n, bool shuffle, uint64_t seed)
{
    uint32_t *ring = pw_alloc_zero((size_t)n, sizeof *ring);
    PW_CHECK(ring, PW_E_NOMEM, "out of memory for the partners of %lld rows", (long long)n);
    for (int64_t i = 0; i < n; i++)
        ring[i] = rows ? rows[i] : (uint32_t)i;
    if (shuffle) {
        struct pw_rng rng = pw_rng_make(seed, (uint64_t)PW_STREAM_SHUFFLE | (uint64_t)PARTNER_STREAM << 56);
        pw_rng_shuffle(&rng, ring, (uint64_t)n);
    }
    for (int64_t i = 0; i < n; i++)
        r->partner[ring[i]] = ring[i + 1 < n ? i + 1 : 0];
    pw_free(ring);
    return 0;
}

int pw_preference_place(struct pw_preference *p, struct pw_arena *a, const struct pw_dataset *train, const uint32_t *rows, int64_t n_rows,
                        const struct pw_dataset *eval, const uint32_t *eval_rows, int64_t n_eval, int64_t most_rows, bool shuffle, uint64_t seed)
{
    bool kto = p->objective.kind == PW_OBJECTIVE_KTO;
    p->seq = pw_arena_array(a, (size_t)most_rows + 1, sizeof *p->seq);
    PW_CHECK(p->seq, PW_E_NOMEM, "out of memory for %lld rows of a pass", (long long)most_rows);
    PW_PASS(place_reference(&p->train, &p->objective, a, train));
    if (kto)
        PW_PASS(draw_partners(&p->train, rows, n_rows, shuffle, seed));
    if (!eval)
        return 0;
    if (eval == train)                       /* a held-out share: the same arrays, other rows of them */
        p->eval = p->train;
    else
        PW_PASS(place_reference(&p->eval, &p->objective, a, eval));
    return kto ? draw_partners(&p->eval, eval_rows, n_eval, shuffle, seed) : 0;
}

/* ---- log-probabilities ---- */

static bool stopped(const struct pw_preference *p)
{
    return p->stop && p->stop(p->stop_ctx);
}

/* seq[s] = the sum over the trained tokens of sequence s. */
static void sum_sequences(const struct pw_packed *b, const float *nll, double *seq)
{
    for (int s = 0; s < b->n_seqs; s++) {
        seq[s] = 0;
        for (int32_t t = b->seq_start[s]; t < b->seq_start[s + 1]; t++)
            if (b->targets[t] >= 0)
                seq[s] -= (double)nll[t];
    }
}

/* Of what p->packed holds, into p->seq: by the model as it is, or by the reference. */
static int read_logps(struct pw_preference *p, bool reference)
{
    const struct pw_pass_options o = {.backward = false};
    double loss = 0;
    if (reference && p->adapter)
        PW_PASS(pw_model_attach(p->model, NULL));
    int rc = pw_pass_run(p->pass, p->packed, &o, &loss);
    if (reference && p->adapter) {
        int back = pw_model_attach(p->model, p->adapter);
        rc = rc < 0 ? rc : back;
    }
    PW_TRY(rc, "%s log-probabilities", reference ? "reading the reference's" : "reading");
    sum_sequences(p->packed, p->pass->host_loss, p->seq);
    return 0;
}

static int know_reference(struct pw_preference *p, struct pw_reference *r, const uint32_t *rows, int64_t n)
{
    bool known = true;
    for (int64_t i = 0; i < n; i++)
        known &= !isnan(r->logp[rows[i]]);
    if (known)
        return 0;
    PW_CHECK(p->adapter, PW_E_FAIL, "the reference of full training was not read before the first step");
    PW_PASS(read_logps(p, true));
    for (int64_t i = 0; i < n; i++)
        r->logp[rows[i]] = p->seq[i];
    return 0;
}

/* ---- kto: how far the model has moved ---- */

/* Adds the partner's answer after the row's prompt to p->packed, cut to `longest` tokens; false when there is no room. */
static bool add_moved(struct pw_packed *b, const struct pw_reference *r, uint32_t row, int64_t longest)
{
    const struct pw_dataset *d = r->data;
    const int64_t other = r->partner[row], prompt = first_trained(d, row) - d->row_start[row], from = first_trained(d, other);
    int64_t n = prompt + d->row_start[other + 1] - from, at = b->n_tokens;
    n = n < longest ? n : longest;
    if (n > b->cap_tokens - at || b->n_seqs == b->cap_seqs)
        return false;
    for (int64_t i = 0; i < n; i++) {
        b->ids[at + i] = i < prompt ? d->ids[d->row_start[row] + i] : d->ids[from + i - prompt];
        b->positions[at + i] = (int32_t)i;
        bool learnt = i + 1 < n && i + 1 >= prompt && d->trained[from + i + 1 - prompt];
        b->targets[at + i] = learnt ? d->ids[from + i + 1 - prompt] : -1;
        b->n_trained += learnt;
    }
    b->seq_len[b->n_seqs] = (int32_t)n;
    b->seq_start[b->n_seqs++] = (int32_t)at;
    b->seq_start[b->n_seqs] = (int32_t)(at + n);
    b->n_tokens = at + n;
    return true;
}

/* rows: as they come; sum += their log-probability ratios (policy), or their reference values are kept (!policy). */
static int read_moved(struct pw_preference *p, struct pw_reference *r, const uint32_t *rows, int64_t n, bool policy, double *sum)
{
    for (int64_t i = 0; i < n;) {
        int64_t first = i;
        bool known = true;
        if (stopped(p))
            return pw_error(PW_E_INTERRUPTED, "interrupted");
        p->packed->n_tokens = p->packed->n_trained = p->packed->n_seqs = 0;
        p->packed->seq_start[0] = 0;
        while (i < n && add_moved(p->packed, r, rows[i], p->longest))
            known &= !isnan(r->moved[rows[i++]]);
        PW_CHECK(i > first, PW_E_FAIL, "no room for row %u and its partner", rows[i]);
        if (!known) {
            PW_CHECK(p->adapter || !policy, PW_E_FAIL, "the reference of full training was not read before the first step");
            PW_PASS(read_logps(p, true));
            for (int64_t k = first; k < i; k++)
                r->moved[rows[k]] = p->seq[k - first];
        }
        if (!policy)
            continue;
        PW_PASS(read_logps(p, false));
        for (int64_t k = first; k < i; k++)
            *sum += p->seq[k - first] - r->moved[rows[k]];
    }
    return 0;
}

int pw_preference_moved(struct pw_preference *p, struct pw_reference *r, const struct pw_packing *plan, int64_t first, int64_t last, double *sum)
{
    const int64_t from = plan->pass_start[first], n = plan->pass_start[last] - from;
    *sum = 0;
    PW_TRY(read_moved(p, r, plan->rows + from, n, true, sum), "estimating how far the model has moved");
    PW_CHECK(isfinite(*sum), PW_E_NUMERIC, "a log-probability of rows in this step is not finite");
    return 0;
}

/* ---- full training: the reference before the first step ---- */

static int read_all(struct pw_preference *p, struct pw_reference *r, const uint32_t *rows, int64_t n_rows)
{
    const struct pw_packing_options o = {.batch_size = 1};
    struct pw_packing *plan = NULL;
    int rc = 0;
    PW_PASS_OUT(pw_packing_plan(&plan, r->data, rows, n_rows, &o, 0));
    for (int64_t i = 0; i < plan->n_passes; i++) {
        if (stopped(p)) {
            rc = pw_error(PW_E_INTERRUPTED, "interrupted");
            goto out;
        }
        PW_PASS_OUT(pw_packed_fill(p->packed, plan, r->data, i));
        PW_PASS_OUT(read_logps(p, true));
        for (int64_t k = plan->pass_start[i]; k < plan->pass_start[i + 1]; k++)
            r->logp[plan->rows[k]] = p->seq[k - plan->pass_start[i]];
    }
    if (p->objective.kind == PW_OBJECTIVE_KTO)
        PW_PASS_OUT(read_moved(p, r, plan->rows, plan->n_rows, false, NULL));
out:
    pw_packing_free(plan);
    return rc;
}

int pw_preference_read(struct pw_preference *p, const uint32_t *rows, int64_t n_rows, const uint32_t *eval_rows, int64_t n_eval)
{
    if (!pw_objective_reference(&p->objective))
        return 0;
    PW_TRY(read_all(p, &p->train, rows, n_rows), "reading the reference");
    if (p->eval.data)
        PW_TRY(read_all(p, &p->eval, eval_rows, n_eval), "reading the reference of the held-out rows");
    return 0;
}

/* ---- one pass ---- */

struct weighing {
    struct pw_preference *p;
    const struct pw_reference *r;
    const uint32_t *rows;
    double z, each;
    struct pw_preference_sums *sums;
};

static void count(struct pw_preference_sums *s, const struct pw_answer_loss *l, int answers, int kind, double shift)
{
    s->loss += l->loss;
    s->examples++;
    if (answers == 2) {
        s->right += l->reward[0] > l->reward[1];
        s->reward[0] += l->reward[0], s->reward[1] += l->reward[1];
        s->n[0]++, s->n[1]++;
        return;
    }
    s->right += kind ? l->reward[0] < shift : l->reward[0] > shift;
    s->reward[kind] += l->reward[0];
    s->n[kind]++;
}

/* rows: in, the loss of each token; out, what it counts in the gradient. */
static int weigh(void *ctx, const struct pw_packed *b, float *rows, double *loss)
{
    struct weighing *k = ctx;
    const struct pw_objective *o = &k->p->objective;
    const int per = pw_objective_pairs(o) ? 2 : 1;
    const double before = k->sums->loss;
    sum_sequences(b, rows, k->p->seq);
    for (int s = 0; s < b->n_seqs; s += per) {
        struct pw_answer a[2];
        for (int i = 0; i < per; i++) {
            a[i] = (struct pw_answer){.logp = k->p->seq[s + i], .ref = k->r->logp ? k->r->logp[k->rows[s + i]] : 0};
            for (int32_t t = b->seq_start[s + i]; t < b->seq_start[s + i + 1]; t++)
                a[i].tokens += b->targets[t] >= 0;
        }
        const bool bad = per == 1 && !k->r->data->row_label[k->rows[s]];
        const struct pw_answer_loss l = per == 2 ? pw_objective_pair(o, &a[0], &a[1]) : pw_objective_label(o, &a[0], !bad, k->z);
        count(k->sums, &l, per, bad, o->beta * k->z);
        for (int i = 0; i < per; i++)
            for (int32_t t = b->seq_start[s + i]; t < b->seq_start[s + i + 1]; t++)
                rows[t] = b->targets[t] >= 0 ? (float)(-l.d[i] * k->each) : 0;    /* the log-probability is minus the sum of losses */
    }
    *loss = k->sums->loss - before;
    return 0;
}

int pw_preference_pass(struct pw_preference *p, struct pw_reference *r, const struct pw_packing *plan, int64_t pass, const struct pw_pass_options *o,
                       double z, struct pw_preference_sums *sums)
{
    const uint32_t *rows = plan->rows + plan->pass_start[pass];
    struct weighing k = {.p = p, .r = r, .rows = rows, .z = z, .each = o->dloss, .sums = sums};
    struct pw_pass_options with = *o;
    double loss = 0;
    if (r->logp)
        PW_PASS(know_reference(p, r, rows, p->packed->n_seqs));
    with.weigh = weigh;
    with.weigh_ctx = &k;
    PW_PASS(pw_pass_run(p->pass, p->packed, &with, &loss));
    return 0;
}
