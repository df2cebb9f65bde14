/* Data sets: files of rows become token ids and a mask of what is trained.
 *
 * Forms: text, completion, alpaca, messages (sharegpt is turned into it), preference, kto; rules in docs and CLI.md, "Rows and what is
 * trained of them". A preference makes two rows that stay together: 2i is the chosen answer, 2i + 1 the rejected one. A kto row carries a label.
 * "Example" is what a line of the file makes: a row, or a pair of rows; lists of what takes part (splits, packing) number examples.
 * A row keeps the line it came from. Whatever is wrong with a row is an error that names file and line; nothing is skipped in silence.
 * Rows of a file are cached in HDF5, keyed by content. Knows nothing of models beyond the tokenizer, and nothing of batches. */
#ifndef PW_DATA_DATASET_H
#define PW_DATA_DATASET_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/memory.h"
#include "base/progress.h"
#include "base/value.h"
#include "data/tokenizer.h"

/* One file. format NULL or "auto": by the keys of its first row. prompt, completion, text: Jinja templates over the row's keys
 * (prompt + completion, or text), for files of other keys; in a JSON object of objects each value is a row and its key is `_key`. */
struct pw_data_file {
    const char *path, *format;
    double weight;                           /* 0 reads as 1: rows are taken this often an epoch (see packing.h) */
    const char *prompt, *completion, *text;  /* NULL: none */
};
/* A recipe's `data.train` or `data.eval`: a path, {path, format, weight, prompt, completion, text}, or a list of these.
 * Paths are taken relative to base_dir when it is not NULL and the file is not found as given. */
int pw_data_files_read(struct pw_arena *a, const struct pw_value *v, const char *format, const char *base_dir, const char *where,
                       struct pw_data_file **files, size_t *n);

enum pw_train_on { PW_TRAIN_ASSISTANT, PW_TRAIN_LAST, PW_TRAIN_ALL };
enum pw_overlong { PW_OVERLONG_CUT, PW_OVERLONG_DROP };
int pw_train_on_parse(const char *s, enum pw_train_on *out);  /* PW_E_USAGE naming the nearest */
int pw_overlong_parse(const char *s, enum pw_overlong *out);

struct pw_dataset_options {
    const struct pw_tokenizer *tokenizer;
    const char *chat_template;    /* Jinja source, NULL: none (messages are then an error) */
    int64_t max_length;           /* tokens of a row, 0: no limit */
    enum pw_overlong overlong;
    enum pw_train_on train_on;
    const char *cache_dir;        /* NULL: no cache */
    bool keep_going;              /* data check: list bad rows in ->errors instead of failing at the first one */
    int64_t now;                  /* seconds since 1970 that strftime_now shows; 0: the clock */
    struct pw_progress *progress; /* NULL: silent */
};
struct pw_data_note { int64_t row; const char *source, *what; }; /* row = line number, 0: the whole file */

struct pw_dataset {
    int64_t n_rows, n_tokens, n_trained;
    int32_t *ids;          /* (n_tokens) */
    uint8_t *trained;      /* (n_tokens) 1: this token is a target; never the first of a row */
    float *token_weight;   /* (n_tokens) what a token counts where it is trained: weight of its row times that of its turn; NULL: every one 1 */
    int64_t *row_start;    /* (n_rows + 1) */
    int64_t *row_line;     /* (n_rows) */
    int32_t *row_file;     /* (n_rows) index into files */
    uint64_t *row_hash;    /* (n_rows) of ids, trained and label, of both rows of a pair: equal examples, equal hash */
    float *row_weight;     /* (n_rows); NULL when every weight is 1 */
    uint8_t *row_label;    /* (n_rows) 1: a desirable answer, 0: not; NULL unless the form is kto */
    bool pairs;            /* the form is preference: rows 2i and 2i + 1 are chosen and rejected */
    int64_t truncated, dropped, duplicates; /* examples */
    struct pw_data_note *errors, *warnings;
    size_t n_errors, n_warnings, cap_errors, cap_warnings;
    int64_t longest;       /* tokens of the longest row */
    size_t n_cached;       /* files that came from the cache */
    char digest[65];       /* SHA-256 of ids, trained and row_start: checkpoints keep it */
    struct pw_arena arena; /* owns everything above */
};
/* Without keep_going: PW_E_FORMAT at the first bad row; PW_E_REFUSED when there is no row or no trained token.
 * With keep_going these are entries of ->errors and 0 is returned. */
int pw_dataset_load(struct pw_dataset **out, const struct pw_data_file *files, size_t n_files, const struct pw_dataset_options *o);
void pw_dataset_free(struct pw_dataset *d); /* NULL is fine */
int pw_dataset_note(struct pw_dataset *d, bool error, int64_t line, const char *source, const char *what); /* one more error or warning; copies */
static inline int pw_dataset_per(const struct pw_dataset *d) { return d->pairs ? 2 : 1; } /* rows of an example */
static inline int64_t pw_dataset_examples(const struct pw_dataset *d) { return d->n_rows / pw_dataset_per(d); }

/* Holds out round(share * examples) examples (at least 1), drawn by (seed, PW_STREAM_SPLIT); one equal to one held out is held out too.
 * Both lists ascend and belong to the arena. 0 < share < 1; PW_E_REFUSED when nothing would be left to train on. */
int pw_dataset_split(struct pw_arena *a, const struct pw_dataset *d, double share, uint64_t seed, uint32_t **train, int64_t *n_train,
                     uint32_t **held, int64_t *n_held);
#endif
