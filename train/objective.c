/* See objective.h. */
#include "train/objective.h"

#include <math.h>
#include <string.h>

struct pw_objective pw_objective_of(const struct pw_recipe *r)
{
    static const struct { const char *name; enum pw_objective_kind kind; } kinds[] = {
        {"dpo", PW_OBJECTIVE_DPO}, {"orpo", PW_OBJECTIVE_ORPO}, {"simpo", PW_OBJECTIVE_SIMPO}, {"kto", PW_OBJECTIVE_KTO}};
    struct pw_objective o = {.kind = PW_OBJECTIVE_TOKENS, .beta = r->beta, .smoothing = r->label_smoothing, .rpo_alpha = r->rpo_alpha, .gamma = r->gamma,
                             .desirable = r->desirable_weight, .undesirable = r->undesirable_weight};
    for (size_t i = 0; i < sizeof kinds / sizeof kinds[0]; i++)
        if (strcmp(r->objective, kinds[i].name) == 0)
            o.kind = kinds[i].kind;
    o.dpo = strcmp(r->dpo_loss, "ipo") == 0 ? PW_DPO_IPO : strcmp(r->dpo_loss, "hinge") == 0 ? PW_DPO_HINGE : PW_DPO_SIGMOID;
    return o;
}

bool pw_objective_pairs(const struct pw_objective *o)
{
    return o->kind == PW_OBJECTIVE_DPO || o->kind == PW_OBJECTIVE_ORPO || o->kind == PW_OBJECTIVE_SIMPO;
}

bool pw_objective_reference(const struct pw_objective *o)
{
    return o->kind == PW_OBJECTIVE_DPO || o->kind == PW_OBJECTIVE_KTO;
}

static double sigmoid(double x)
{
    return x >= 0 ? 1 / (1 + exp(-x)) : exp(x) / (1 + exp(x));
}

static double log_sigmoid(double x)
{
    return x >= 0 ? -log1p(exp(-x)) : x - log1p(exp(x));
}

/* -(1 - e) log sigmoid(x) - e log sigmoid(-x), and its derivative by x. */
static double logistic(double x, double e, double *dx)
{
    *dx = -(1 - e) * sigmoid(-x) + e * sigmoid(x);
    return -(1 - e) * log_sigmoid(x) - e * log_sigmoid(-x);
}

static void dpo(const struct pw_objective *o, const struct pw_answer *w, const struct pw_answer *l, struct pw_answer_loss *out)
{
    const double nw = o->dpo == PW_DPO_IPO ? (double)w->tokens : 1, nl = o->dpo == PW_DPO_IPO ? (double)l->tokens : 1;
    const double rw = (w->logp - w->ref) / nw, rl = (l->logp - l->ref) / nl, h = rw - rl;
    double dh = 0;
    switch (o->dpo) {
    case PW_DPO_SIGMOID:
        out->loss = logistic(o->beta * h, o->smoothing, &dh);
        dh *= o->beta;
        break;
    case PW_DPO_IPO:
        out->loss = (h - 1 / (2 * o->beta)) * (h - 1 / (2 * o->beta));
        dh = 2 * (h - 1 / (2 * o->beta));
        break;
    case PW_DPO_HINGE:
        out->loss = o->beta * h < 1 ? 1 - o->beta * h : 0;
        dh = o->beta * h < 1 ? -o->beta : 0;
        break;
    }
    out->d[0] = dh / nw;
    out->d[1] = -dh / nl;
    if (o->rpo_alpha > 0) {
        out->loss -= o->rpo_alpha * w->logp / (double)w->tokens;
        out->d[0] -= o->rpo_alpha / (double)w->tokens;
    }
    out->reward[0] = o->beta * rw;
    out->reward[1] = o->beta * rl;
}

/* log(p / (1 - p)) of p = exp(a), a < 0, and its derivative 1 / (1 - p). */
static double log_odds(double a, double *da)
{
    const double rest = -expm1(a);
    *da = 1 / rest;
    return a - log(rest);
}

static void orpo(const struct pw_objective *o, const struct pw_answer *w, const struct pw_answer *l, struct pw_answer_loss *out)
{
    const double aw = w->logp / (double)w->tokens, al = l->logp / (double)l->tokens;
    double dw, dl, dx;
    const double x = log_odds(aw, &dw) - log_odds(al, &dl);
    out->loss = -aw + o->beta * logistic(x, 0, &dx);
    out->d[0] = (-1 + o->beta * dx * dw) / (double)w->tokens;
    out->d[1] = -o->beta * dx * dl / (double)l->tokens;
    out->reward[0] = o->beta * aw;
    out->reward[1] = o->beta * al;
}

static void simpo(const struct pw_objective *o, const struct pw_answer *w, const struct pw_answer *l, struct pw_answer_loss *out)
{
    const double aw = w->logp / (double)w->tokens, al = l->logp / (double)l->tokens;
    double dx;
    out->loss = logistic(o->beta * (aw - al) - o->gamma, o->smoothing, &dx);
    out->d[0] = o->beta * dx / (double)w->tokens;
    out->d[1] = -o->beta * dx / (double)l->tokens;
    out->reward[0] = o->beta * aw;
    out->reward[1] = o->beta * al;
}

struct pw_answer_loss pw_objective_pair(const struct pw_objective *o, const struct pw_answer *chosen, const struct pw_answer *rejected)
{
    struct pw_answer_loss out = {0};
    if (o->kind == PW_OBJECTIVE_DPO)
        dpo(o, chosen, rejected, &out);
    else if (o->kind == PW_OBJECTIVE_ORPO)
        orpo(o, chosen, rejected, &out);
    else
        simpo(o, chosen, rejected, &out);
    return out;
}

struct pw_answer_loss pw_objective_label(const struct pw_objective *o, const struct pw_answer *a, bool desirable, double z)
{
    struct pw_answer_loss out = {0};
    const double ratio = a->logp - a->ref, sign = desirable ? 1 : -1, weight = desirable ? o->desirable : o->undesirable;
    const double p = sigmoid(sign * o->beta * (ratio - z));
    out.loss = weight * sigmoid(-sign * o->beta * (ratio - z));     /* 1 - p without cancellation */
    out.d[0] = -weight * sign * o->beta * p * sigmoid(-sign * o->beta * (ratio - z));
    out.reward[0] = o->beta * ratio;
    return out;
}
