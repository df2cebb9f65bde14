/* Objectives over preferences: from log-probabilities of whole answers to losses and their gradients. Plain arithmetic in double.
 *
 * Letters: w, l log-probability sums of the chosen and the rejected answer; w', l' the same of the reference model; n_w, n_l their tokens;
 * s = log sigmoid. Losses of a step are means over its examples.
 *     dpo     h = (w - w') - (l - l'); sigmoid -(1 - e) s(beta h) - e s(-beta h) with label smoothing e (Rafailov et al. 2023; Mitchell 2023);
 *             ipo (h / tokens - 1 / (2 beta))^2, each log-probability divided by its tokens (Azar et al. 2023); hinge max(0, 1 - beta h) (Zhao et
 *             al. 2023). rpo_alpha adds rpo_alpha * -w / n_w (Pang et al. 2024).
 *     orpo    -w / n_w - beta s(log odds(w / n_w) - log odds(l / n_l)), odds(p) = p / (1 - p) (Hong et al. 2024). No reference.
 *     simpo   -(1 - e) s(x) - e s(-x), x = beta (w / n_w - l / n_l) - gamma (Meng et al. 2024). No reference.
 *     kto     desirable: weight (1 - sigmoid(beta ((w - w') - z))), not: weight (1 - sigmoid(beta (z - (w - w')))), z the largest of 0 and the
 *             mean of log-probability ratios of answers to other rows' prompts (Ethayarajh et al. 2024), a constant in the gradient.
 * Knows nothing of models, batches and files. */
#ifndef PW_TRAIN_OBJECTIVE_H
#define PW_TRAIN_OBJECTIVE_H

#include "train/recipe.h"

enum pw_objective_kind { PW_OBJECTIVE_TOKENS, PW_OBJECTIVE_DPO, PW_OBJECTIVE_ORPO, PW_OBJECTIVE_SIMPO, PW_OBJECTIVE_KTO };
enum pw_dpo_loss { PW_DPO_SIGMOID, PW_DPO_IPO, PW_DPO_HINGE };
struct pw_objective {
    enum pw_objective_kind kind;   /* TOKENS: log-likelihood of the trained tokens (sft, pretrain), which needs nothing of this file */
    enum pw_dpo_loss dpo;
    double beta, smoothing, rpo_alpha, gamma, desirable, undesirable;
};
struct pw_objective pw_objective_of(const struct pw_recipe *r);
bool pw_objective_pairs(const struct pw_objective *o);      /* rows come in pairs */
bool pw_objective_reference(const struct pw_objective *o);  /* needs log-probabilities of the reference model */

struct pw_answer { double logp, ref; int64_t tokens; };     /* sums over the answer's tokens; ref of the reference model, where it is needed */
struct pw_answer_loss {
    double loss;
    double d[2];               /* derivative of the loss by logp of each answer */
    double reward[2];          /* what the objective makes larger for the chosen and smaller for the rejected answer */
};
/* One pair: chosen, rejected. */
struct pw_answer_loss pw_objective_pair(const struct pw_objective *o, const struct pw_answer *chosen, const struct pw_answer *rejected);
/* One answer of kto; d[0], reward[0]. */
struct pw_answer_loss pw_objective_label(const struct pw_objective *o, const struct pw_answer *a, bool desirable, double z);
#endif
