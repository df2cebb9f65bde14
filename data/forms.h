/* Forms of rows: each turns one row (a map) into ids and the mask of what is trained. Used by dataset.c alone.
 *
 * A form is a line of the table in forms.c; text-like ones live in forms_text.c, chats in forms_chat.c, preferences in forms_pair.c. */
#ifndef PW_DATA_FORMS_H
#define PW_DATA_FORMS_H

#include "data/chat.h"
#include "data/dataset.h"

/* Work space of one file; rows are made one after another. */
struct pw_row_maker {
    const struct pw_dataset_options *o;
    const struct pw_data_file *file;
    struct pw_chat *chat;                            /* NULL: the model has no template */
    struct pw_jinja *prompt, *completion, *whole;    /* the file's own templates */
    struct pw_tokens tokens;
    struct pw_chat_spans spans;
    struct pw_buf text;
    bool answers;      /* preference and kto: the answer alone counts, whatever train_on says */
    int side;          /* of a pair: 0 make the chosen row, 1 the rejected one */
    uint8_t label;     /* kto: of the row made last */
    int32_t *ids;      /* the row made last */
    uint8_t *trained;
    float *weight;     /* what each token counts where it is trained; read when `weighted` */
    bool weighted;     /* some token of the row counts another amount than 1 */
    int64_t n, cap;
    struct { const char *what; int64_t line, count; } warnings[16]; /* constants, each once */
    int n_warnings;
    int64_t line;      /* of the row being made */
};

struct pw_row_form {
    const char *name;
    bool (*matches)(const struct pw_value *row); /* for `auto`; NULL: only by name */
    int (*make)(struct pw_row_maker *m, struct pw_arena *a, const struct pw_value *row);
    enum pw_row_shape { PW_ROW_ALONE, PW_ROW_PAIRED, PW_ROW_LABELLED } shape;
};
extern const struct pw_row_form pw_forms[]; /* ends with a NULL name; in the order in which `auto` asks */
const struct pw_row_form *pw_form_find(const char *name);
void pw_row_warn(struct pw_row_maker *m, const char *what); /* what: a constant */
int pw_row_reserve(struct pw_row_maker *m, int64_t n);
/* Sets the row from m->tokens: BOS if `bos`, the tokens, EOS if `eos`. The mask is all zero. */
int pw_row_set(struct pw_row_maker *m, const struct pw_tokens *t, bool bos, bool eos);
/* Tokens [from, to) count `weight` times as much. */
void pw_row_weigh(struct pw_row_maker *m, int64_t from, int64_t to, double weight);
int pw_row_string(const struct pw_value *row, const char *key, bool required, const char **s, size_t *n);

int pw_form_text(struct pw_row_maker *m, struct pw_arena *a, const struct pw_value *row);
int pw_form_completion(struct pw_row_maker *m, struct pw_arena *a, const struct pw_value *row);
int pw_form_alpaca(struct pw_row_maker *m, struct pw_arena *a, const struct pw_value *row);
int pw_form_messages(struct pw_row_maker *m, struct pw_arena *a, const struct pw_value *row);
int pw_form_sharegpt(struct pw_row_maker *m, struct pw_arena *a, const struct pw_value *row);
int pw_form_preference(struct pw_row_maker *m, struct pw_arena *a, const struct pw_value *row); /* the side that m names */
int pw_form_kto(struct pw_row_maker *m, struct pw_arena *a, const struct pw_value *row);

/* What they are made of. A prompt and its answer as one text, as the form completion has it; as one conversation, of which the assistant's
 * turns from message `first` on are learnt. */
int pw_row_answer(struct pw_row_maker *m, const char *prompt, size_t n_prompt, const char *answer, size_t n_answer);
int pw_row_chat(struct pw_row_maker *m, const struct pw_value *messages, const struct pw_value *tools, size_t first);
int pw_row_tools(struct pw_arena *a, const struct pw_value *row, const struct pw_value **tools); /* NULL: none */
int pw_message_add(struct pw_arena *a, struct pw_value *list, const char *role, const char *content, size_t n);
#endif
