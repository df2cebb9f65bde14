/* Exporting and comparing published ballots, see vote_export.h. Knows no counting. */
#include "eval/vote_export.h"

#include <stdio.h>
#include <string.h>
#include "base/error.h"
#include "base/file.h"
#include "data/csv.h"
#include "eval/ballots.h"

static const char *const columns[] = { "kind", "voter", "entry", "left", "right", "choice", "coins", "rating", "prompt", "time", "id" };
enum { N_COLUMNS = sizeof columns / sizeof columns[0] };

struct walk {
    struct pw_ledger *l;
    const struct pw_contest *c;
    struct pw_arena a;
    struct pw_buf csv, jsonl, cell, key;
    struct pw_json proof;
    struct pw_names more;           /* names of further columns */
    bool has[N_COLUMNS], hide;
    /* verify */
    struct pw_csv *published;
    const char *path, *wanted;
    int64_t found;
};

static int read_key(struct walk *x, const char *path)
{
    if (!path)
        return 0;
    PW_PASS(pw_file_read(path, 1 << 20, &x->key));
    PW_CHECK(x->key.len >= 16, PW_E_REFUSED, "%s: a key of %zu bytes hides nobody (at least 16)", path, x->key.len);
    x->hide = true;
    return 0;
}

/* The text of a column of a record, into x->cell. false: the record does not have it. */
static bool get_cell(struct walk *x, const struct pw_value *v, const char *name)
{
    const struct pw_value *f = pw_get(v, name);
    char text[65];
    pw_buf_clear(&x->cell);
    if (!f || f->kind == PW_NULL)
        return false;
    if (x->hide && strcmp(name, "voter") == 0) {
        struct pw_sha256 h;
        pw_sha256_init(&h);
        pw_sha256_add(&h, x->key.data, x->key.len);
        pw_sha256_add(&h, "\n", 1);
        pw_sha256_add(&h, f->s, f->len);
        pw_sha256_hex(&h, text);
        pw_buf_add(&x->cell, text, 32);
        return true;
    }
    if (f->kind == PW_STRING) {
        pw_buf_add(&x->cell, f->s, f->len);
    } else {
        struct pw_json w = { 0 };
        pw_json_value(&w, NULL, f);
        pw_buf_add(&x->cell, w.out.data, w.out.len);
        pw_json_free(&w);
    }
    return true;
}

static int find_columns(void *context, const struct pw_record *r)
{
    struct walk *x = context;
    struct pw_value *v = NULL;
    int64_t index;
    pw_arena_reset(&x->a);
    PW_PASS(pw_json_parse(&x->a, r->body, r->bytes, pw_ledger_path(x->l), &v));
    for (int i = 1; i < N_COLUMNS; i++)
        x->has[i] |= pw_get(v, columns[i]) != NULL;
    const struct pw_value *more = pw_get(v, "more");
    for (size_t i = 0; more && i < more->len; i++)
        PW_PASS(pw_names_add(&x->more, more->members[i].key, more->members[i].key_len, &index));
    return 0;
}

static int write_record(void *context, const struct pw_record *r)
{
    struct walk *x = context;
    struct pw_value *v = NULL;
    bool first = true;
    pw_arena_reset(&x->a);
    PW_PASS(pw_json_parse(&x->a, r->body, r->bytes, pw_ledger_path(x->l), &v));
    for (int i = 0; i < N_COLUMNS; i++) {
        if (!x->has[i])
            continue;
        (void)get_cell(x, v, columns[i]);
        pw_csv_add_cell(&x->csv, x->cell.data ? x->cell.data : "", x->cell.len, first);
        first = false;
    }
    for (int64_t i = 0; i < x->more.n; i++) {
        const struct pw_value *more = pw_get(v, "more");
        pw_buf_clear(&x->cell);
        if (more)
            (void)get_cell(x, more, x->more.items[i].s);
        pw_csv_add_cell(&x->csv, x->cell.data ? x->cell.data : "", x->cell.len, false);
    }
    if (!x->hide) {
        pw_buf_printf(&x->csv, ",%lld:%s", (long long)r->n, r->hash);
        pw_buf_add(&x->jsonl, r->body, r->bytes);
        pw_buf_char(&x->jsonl, '\n');
    }
    pw_buf_char(&x->csv, '\n');
    pw_json_str(&x->proof, NULL, r->hash);
    return 0;
}

static int write_all(struct walk *x, const char *dir)
{
    struct pw_arena paths;
    struct pw_buf yaml = { 0 };
    bool first = true;
    int kinds = 0, rc;
    PW_PASS(pw_arena_init(&paths));
    for (int k = 0; k < PW_BALLOT_KINDS; k++)
        kinds += x->c->takes[k];
    PW_PASS_OUT(pw_ledger_each(x->l, find_columns, x));
    x->has[0] = kinds > 1;
    x->has[1] = true;
    for (int i = 0; i < N_COLUMNS; i++)
        if (x->has[i]) {
            pw_csv_add_cell(&x->csv, columns[i], strlen(columns[i]), first);
            first = false;
        }
    for (int64_t i = 0; i < x->more.n; i++)
        pw_csv_add_cell(&x->csv, x->more.items[i].s, x->more.items[i].len, false);
    pw_buf_str(&x->csv, x->hide ? "\n" : ",receipt\n");
    pw_json_open(&x->proof, NULL, '{');
    pw_json_i64(&x->proof, "schema", 1);
    pw_json_str(&x->proof, "contest", x->c->name);
    pw_json_str(&x->proof, "rule", "genesis = sha256(\"pw-contest-1\\n\" + contest.json); hash = sha256(previous + \"\\n\" + record)");
    pw_json_str(&x->proof, "genesis", pw_ledger_genesis(x->l));
    pw_json_str(&x->proof, "root", pw_ledger_root(x->l));
    pw_json_i64(&x->proof, "votes", pw_ledger_count(x->l));
    pw_json_open(&x->proof, "hashes", '[');
    PW_PASS_OUT(pw_ledger_each(x->l, write_record, x));
    pw_json_close(&x->proof, ']');
    pw_json_close(&x->proof, '}');
    PW_PASS_OUT(pw_json_status(&x->proof));
    PW_PASS_OUT(pw_buf_status(&x->csv));
    PW_PASS_OUT(pw_buf_status(&x->jsonl));
    PW_PASS_OUT(pw_contest_yaml(x->c, &yaml));
    const char *contest = pw_ledger_contest(x->l);
    PW_PASS_OUT(pw_file_write(pw_path_join(&paths, dir, "ballots.csv"), x->csv.data, x->csv.len, false));
    PW_PASS_OUT(pw_file_write(pw_path_join(&paths, dir, "contest.yaml"), yaml.data, yaml.len, false));
    PW_PASS_OUT(pw_file_write(pw_path_join(&paths, dir, "contest.json"), contest, strlen(contest), false));
    PW_PASS_OUT(pw_file_write(pw_path_join(&paths, dir, "proof.json"), x->proof.out.data, x->proof.out.len, false));
    if (!x->hide)
        PW_PASS_OUT(pw_file_write(pw_path_join(&paths, dir, "records.jsonl"), x->jsonl.data ? x->jsonl.data : "", x->jsonl.len, false));
out:
    pw_buf_free(&yaml);
    pw_arena_free(&paths);
    return rc;
}

static void end_walk(struct walk *x)
{
    pw_arena_free(&x->a);
    pw_buf_free(&x->csv);
    pw_buf_free(&x->jsonl);
    pw_buf_free(&x->cell);
    pw_buf_free(&x->key);
    pw_json_free(&x->proof);
    pw_names_free(&x->more);
}

int pw_vote_export(struct pw_ledger *l, const struct pw_contest *c, const char *dir, const char *key_file, bool force)
{
    struct walk x = { .l = l, .c = c };
    struct pw_outdir o = { 0 };
    int rc;
    PW_PASS(pw_arena_init(&x.a));
    PW_PASS_OUT(read_key(&x, key_file));
    PW_PASS_OUT(pw_outdir_open(&o, dir, force));
    PW_PASS_OUT(write_all(&x, o.temp));
    PW_PASS_OUT(pw_outdir_commit(&o));
out:
    pw_outdir_abort(&o);
    end_walk(&x);
    return rc;
}

static int compare_record(void *context, const struct pw_record *r)
{
    struct walk *x = context;
    struct pw_csv *csv = x->published;
    struct pw_value *v = NULL;
    bool more;
    char receipt[96];
    pw_arena_reset(&x->a);
    PW_PASS(pw_json_parse(&x->a, r->body, r->bytes, pw_ledger_path(x->l), &v));
    PW_PASS(pw_csv_next(csv, &more));
    PW_CHECK(more, PW_E_FORMAT, "%s: ends before record %lld of %lld", x->path, (long long)r->n, (long long)pw_ledger_count(x->l));
    PW_CHECK(csv->n_cells == csv->n_names, PW_E_FORMAT, "%s:%lld: the row has %d cells, the header %d", x->path, (long long)csv->row_line,
             csv->n_cells, csv->n_names);
    for (int i = 0; i < csv->n_names; i++) {
        const char *name = csv->names[i].s, *want;
        const struct pw_value *in = v;
        bool known = false;
        for (int k = 0; k < N_COLUMNS && !known; k++)
            known = strcmp(name, columns[k]) == 0;
        if (strcmp(name, "receipt") == 0) {
            snprintf(receipt, sizeof receipt, "%lld:%.64s", (long long)r->n, r->hash);
            want = receipt;
        } else {
            in = known ? v : pw_get(v, "more");
            pw_buf_clear(&x->cell);
            if (in)
                (void)get_cell(x, in, name);
            PW_PASS(pw_buf_status(&x->cell));
            want = x->cell.data ? x->cell.data : "";
        }
        PW_CHECK(strcmp(want, csv->cells[i].s) == 0, PW_E_FORMAT, "%s:%lld: record %lld: %s differs (the ledger has '%.80s', the file '%.80s')",
                 x->path, (long long)csv->row_line, (long long)r->n, name, want, csv->cells[i].s);
    }
    return 0;
}

int pw_vote_verify_csv(struct pw_ledger *l, const struct pw_contest *c, const char *path, const char *key_file)
{
    struct pw_csv csv = { 0 };
    struct walk x = { .l = l, .c = c, .published = &csv, .path = path };
    struct pw_buf text = { 0 };
    bool more;
    int rc;
    PW_PASS(pw_arena_init(&x.a));
    PW_PASS_OUT(read_key(&x, key_file));
    PW_PASS_OUT(pw_file_read(path, 0, &text));
    pw_csv_open(&csv, text.data ? text.data : "", text.len, path, ',');
    PW_PASS_OUT(pw_csv_header(&csv));
    PW_CHECK_OUT(pw_csv_column(&csv, "voter") >= 0, PW_E_FORMAT, "%s: the header has no column 'voter'", path);
    PW_PASS_OUT(pw_ledger_each(l, compare_record, &x));
    PW_PASS_OUT(pw_csv_next(&csv, &more));
    PW_CHECK_OUT(!more, PW_E_FORMAT, "%s:%lld: more rows than the ledger's %lld records", path, (long long)csv.row_line,
                 (long long)pw_ledger_count(l));
out:
    pw_csv_close(&csv);
    pw_buf_free(&text);
    end_walk(&x);
    return rc;
}

static int match_receipt(void *context, const struct pw_record *r)
{
    struct walk *x = context;
    if (strcmp(r->hash, x->wanted) == 0)
        x->found = r->n;
    return 0;
}

int pw_vote_verify_receipt(struct pw_ledger *l, const char *receipt, int64_t *record)
{
    const char *colon = strchr(receipt, ':');
    struct walk x = { .l = l, .wanted = colon ? colon + 1 : receipt };
    int64_t n = 0;
    if (colon) {
        char number[24];
        size_t len = (size_t)(colon - receipt);
        PW_CHECK(len > 0 && len < sizeof number, PW_E_USAGE, "receipt '%.100s' is not RECORD:HASH", receipt);
        memcpy(number, receipt, len);
        number[len] = 0;
        PW_CHECK(pw_parse_i64(number, &n) == 0 && n > 0, PW_E_USAGE, "receipt '%.100s' is not RECORD:HASH", receipt);
    }
    PW_CHECK(strlen(x.wanted) == 64, PW_E_USAGE, "receipt '%.100s' is not RECORD:HASH with 64 hex digits", receipt);
    PW_PASS(pw_ledger_each(l, match_receipt, &x));
    PW_CHECK(x.found, PW_E_FAIL, "the ledger has no record with the receipt %.100s", receipt);
    PW_CHECK(!n || n == x.found, PW_E_FAIL, "the receipt names record %lld, its hash is that of record %lld", (long long)n, (long long)x.found);
    *record = x.found;
    return 0;
}
