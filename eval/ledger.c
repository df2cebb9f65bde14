/* The hash-chained ledger in SQLite, see ledger.h. Owns the schema and the chain; does not look into records. */
#include "eval/ledger.h"

#include <pthread.h>
#include <sqlite3.h>
#include <string.h>
#include <unistd.h>
#include "base/error.h"
#include "base/file.h"
#include "base/limit.h"
#include "base/memory.h"
#include "base/text.h"

enum { APPLICATION_ID = 0x50574c31 /* "PWL1" */, FORMAT_VERSION = 1, BUSY_MS = 10000 };

static const char schema[] =
    "CREATE TABLE contest(id INTEGER PRIMARY KEY CHECK(id = 1), body TEXT NOT NULL, hash TEXT NOT NULL);"
    "CREATE TABLE record(n INTEGER PRIMARY KEY, body TEXT NOT NULL, hash TEXT NOT NULL);"
    "CREATE TABLE seal(n INTEGER PRIMARY KEY, records INTEGER NOT NULL, root TEXT NOT NULL);"
#define GUARD(table) \
    "CREATE TRIGGER " table "_keeps BEFORE UPDATE ON " table " BEGIN SELECT RAISE(ABORT, 'the ledger is append-only'); END;" \
    "CREATE TRIGGER " table "_stays BEFORE DELETE ON " table " BEGIN SELECT RAISE(ABORT, 'the ledger is append-only'); END;"
    GUARD("contest") GUARD("record") GUARD("seal")
    /* INSERT OR REPLACE deletes without firing the triggers above: an insert must carry the next number. */
    "CREATE TRIGGER contest_once BEFORE INSERT ON contest WHEN EXISTS (SELECT 1 FROM contest)"
    " BEGIN SELECT RAISE(ABORT, 'the ledger is append-only'); END;"
    "CREATE TRIGGER record_next BEFORE INSERT ON record WHEN new.n IS NOT (SELECT coalesce(max(n), 0) + 1 FROM record)"
    " BEGIN SELECT RAISE(ABORT, 'the ledger is append-only'); END;"
    "CREATE TRIGGER seal_next BEFORE INSERT ON seal WHEN new.n IS NOT (SELECT coalesce(max(n), 0) + 1 FROM seal)"
    " BEGIN SELECT RAISE(ABORT, 'the ledger is append-only'); END;";

struct pw_ledger {
    sqlite3 *db;
    char *path, *contest;
    size_t contest_bytes;
    char genesis[65], root[65];
    int64_t count;
    sqlite3_stmt *insert, *rollback;     /* the way back is made beforehand: it may be wanted where there is no memory */
    bool writing;
    char root_before[65];                /* of a transaction */
    int64_t count_before;
};

/* ---- SQLite's memory: its own, counted towards a limit that is kept (base/limit.h) ---------------------------------------- */
static sqlite3_mem_methods plain;
static pthread_once_t once = PTHREAD_ONCE_INIT;
/* This thread's SQLite was without memory: its checks tell that as damage of what they could not read. */
static _Thread_local bool starved;

static void *counted_alloc(int n)
{
    void *p = pw_limit_take((size_t)n) ? plain.xMalloc(n) : NULL;
    if (p)
        pw_limit_count(plain.xSize(p) - n);
    starved |= !p;
    return p;
}

static void counted_free(void *p)
{
    if (p)
        pw_limit_count(-(int64_t)plain.xSize(p));
    plain.xFree(p);
}

static void *counted_realloc(void *p, int n)
{
    const int old = plain.xSize(p);
    void *q = pw_limit_take((size_t)n) ? plain.xRealloc(p, n) : NULL;
    if (q)
        pw_limit_count((int64_t)plain.xSize(q) - n - old);
    starved |= !q;
    return q;
}

static void count_memory(void)
{
    sqlite3_mem_methods counted;
    if (sqlite3_config(SQLITE_CONFIG_GETMALLOC, &plain) != SQLITE_OK)
        return;
    counted = plain;
    counted.xMalloc = counted_alloc;
    counted.xFree = counted_free;
    counted.xRealloc = counted_realloc;
    (void)sqlite3_config(SQLITE_CONFIG_MALLOC, &counted);
}

static int open_db(const char *path, int flags, sqlite3 **db)
{
    pthread_once(&once, count_memory);   /* before the library begins */
    return sqlite3_open_v2(path, db, flags, NULL);
}

/* ---- small SQLite helpers -------------------------------------------------------------------------------------------- */
static int db_error(const char *path, sqlite3 *db, int status, const char *what)
{
    int base = status & 0xff;
    int code = base == SQLITE_NOTADB || base == SQLITE_CORRUPT ? PW_E_FORMAT : base == SQLITE_NOMEM ? PW_E_NOMEM : PW_E_IO;
    return pw_error(code, "%s: %s: %s", path, what, db ? sqlite3_errmsg(db) : sqlite3_errstr(status));
}

static int run(const char *path, sqlite3 *db, const char *sql, const char *what)
{
    int status = sqlite3_exec(db, sql, NULL, NULL, NULL);
    return status == SQLITE_OK ? 0 : db_error(path, db, status, what);
}

static int prepare(const char *path, sqlite3 *db, const char *sql, sqlite3_stmt **out)
{
    int status = sqlite3_prepare_v2(db, sql, -1, out, NULL);
    return status == SQLITE_OK ? 0 : db_error(path, db, status, "reading");
}

static int get_pragma(const char *path, sqlite3 *db, const char *sql, int64_t *out)
{
    sqlite3_stmt *s = NULL;
    PW_PASS(prepare(path, db, sql, &s));
    int status = sqlite3_step(s);
    *out = status == SQLITE_ROW ? sqlite3_column_int64(s, 0) : 0;
    sqlite3_finalize(s);
    return status == SQLITE_ROW ? 0 : db_error(path, db, status, "reading");
}

/* A column that must be text, with its bytes. */
static int get_text(sqlite3_stmt *s, int column, const char *path, const char *what, const char **text, size_t *bytes)
{
    PW_CHECK(sqlite3_column_type(s, column) == SQLITE_TEXT, PW_E_FORMAT, "%s: %s is not text", path, what);
    *text = (const char *)sqlite3_column_text(s, column);
    PW_CHECK(*text, PW_E_NOMEM, "%s: %s: no memory", path, what);
    *bytes = (size_t)sqlite3_column_bytes(s, column);
    return 0;
}

static int get_hash(sqlite3_stmt *s, int column, const char *path, const char *what, char out[65])
{
    const char *text;
    size_t n;
    PW_PASS(get_text(s, column, path, what, &text, &n));
    PW_CHECK(n == 64 && strspn(text, "0123456789abcdef") == 64, PW_E_FORMAT, "%s: %s is not 64 hex digits", path, what);
    memcpy(out, text, 65);
    return 0;
}

/* ---- hashes ----------------------------------------------------------------------------------------------------------- */
void pw_ledger_hash(const char *previous, const char *record, size_t bytes, char hash[65])
{
    struct pw_sha256 h;
    pw_sha256_init(&h);
    pw_sha256_add(&h, previous, 64);
    pw_sha256_add(&h, "\n", 1);
    pw_sha256_add(&h, record, bytes);
    pw_sha256_hex(&h, hash);
}

void pw_ledger_hash_contest(const char *contest, size_t bytes, char hash[65])
{
    struct pw_sha256 h;
    pw_sha256_init(&h);
    pw_sha256_add(&h, "pw-contest-1\n", 13);
    pw_sha256_add(&h, contest, bytes);
    pw_sha256_hex(&h, hash);
}

/* ---- creating --------------------------------------------------------------------------------------------------------- */
int pw_ledger_check_path(const char *path, bool force)
{
    PW_CHECK(!strstr(path, "://"), PW_E_UNSUPPORTED, "%s: a ledger on a database server is not supported, only a file", path);
    return pw_out_check(path, force);
}

static int insert_row(const char *path, sqlite3 *db, const char *sql, int64_t n, const char *text, size_t bytes, const char *hash)
{
    sqlite3_stmt *s = NULL;
    PW_PASS(prepare(path, db, sql, &s));
    sqlite3_bind_int64(s, 1, n);
    if (text)
        sqlite3_bind_text64(s, 2, text, bytes, SQLITE_STATIC, SQLITE_UTF8);
    else
        sqlite3_bind_int64(s, 2, (int64_t)bytes);
    sqlite3_bind_text(s, 3, hash, 64, SQLITE_STATIC);
    int status = sqlite3_step(s);
    int rc = status == SQLITE_DONE ? 0 : db_error(path, db, status, "writing");
    sqlite3_finalize(s);
    return rc;
}

static int write_new(const char *temp, const char *path, const char *contest, size_t bytes)
{
    sqlite3 *db = NULL;
    char hash[65], sql[128];
    int rc, status = open_db(temp, SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE, &db);
    if (status != SQLITE_OK) {
        rc = db_error(path, db, status, "creating the ledger");
        goto out;
    }
    sqlite3_snprintf(sizeof sql, sql, "PRAGMA application_id=%d; PRAGMA user_version=%d;", APPLICATION_ID, FORMAT_VERSION);
    pw_ledger_hash_contest(contest, bytes, hash);
    PW_PASS_OUT(run(path, db, "PRAGMA journal_mode=DELETE; PRAGMA synchronous=EXTRA; BEGIN;", "creating the ledger"));
    PW_PASS_OUT(run(path, db, sql, "creating the ledger"));
    PW_PASS_OUT(run(path, db, schema, "creating the tables"));
    PW_PASS_OUT(insert_row(path, db, "INSERT INTO contest VALUES (?, ?, ?)", 1, contest, bytes, hash));
    PW_PASS_OUT(insert_row(path, db, "INSERT INTO seal VALUES (?, ?, ?)", 1, NULL, 0, hash));
    PW_PASS_OUT(run(path, db, "COMMIT;", "creating the ledger"));
out:
    sqlite3_close(db);
    return rc;
}

int pw_ledger_create(const char *path, const char *contest, size_t bytes, bool force)
{
    struct pw_out o = { 0 };
    struct pw_buf file = { 0 }, temp = { 0 };
    int rc;
    PW_PASS(pw_ledger_check_path(path, force));
    /* SQLite wants a path of its own; what it wrote is then moved through the one way in which outputs appear. */
    pw_buf_printf(&temp, "%s.new-%ld", path, (long)getpid());
    PW_PASS_OUT(pw_buf_status(&temp));
    (void)unlink(temp.data);
    PW_PASS_OUT(write_new(temp.data, path, contest, bytes));
    PW_PASS_OUT(pw_file_read(temp.data, 0, &file));
    PW_PASS_OUT(pw_out_open(&o, path, force));
    PW_PASS_OUT(pw_out_write(&o, file.data, file.len));
    PW_PASS_OUT(pw_out_commit(&o));
out:
    if (temp.data)
        (void)unlink(temp.data);
    pw_out_abort(&o);
    pw_buf_free(&file);
    pw_buf_free(&temp);
    return rc;
}

/* ---- opening ---------------------------------------------------------------------------------------------------------- */
/* Count and root as they are now: another process may have appended since. */
static int read_head(struct pw_ledger *l)
{
    sqlite3_stmt *s = NULL;
    PW_PASS(prepare(l->path, l->db, "SELECT n, hash FROM record ORDER BY n DESC LIMIT 1", &s));
    int rc = 0, status = sqlite3_step(s);
    if (status == SQLITE_ROW) {
        l->count = sqlite3_column_int64(s, 0);
        rc = get_hash(s, 1, l->path, "the last record's hash", l->root);
    } else if (status == SQLITE_DONE) {
        l->count = 0;
        memcpy(l->root, l->genesis, sizeof l->root);
    } else {
        rc = db_error(l->path, l->db, status, "reading the last record");
    }
    sqlite3_finalize(s);
    return rc;
}

static int read_contest(struct pw_ledger *l)
{
    sqlite3_stmt *s = NULL;
    const char *text;
    int rc, status;
    PW_PASS(prepare(l->path, l->db, "SELECT body, hash FROM contest WHERE id = 1", &s));
    status = sqlite3_step(s);
    if (status == SQLITE_ROW) {
        PW_PASS_OUT(get_text(s, 0, l->path, "the contest", &text, &l->contest_bytes));
        l->contest = pw_strndup(text, l->contest_bytes);
        PW_CHECK_OUT(l->contest, PW_E_NOMEM, "%s: no memory for the contest", l->path);
        PW_PASS_OUT(get_hash(s, 1, l->path, "the contest's hash", l->genesis));
    } else {
        rc = status == SQLITE_DONE ? pw_error(PW_E_FORMAT, "%s: the ledger holds no contest", l->path)
                                   : db_error(l->path, l->db, status, "reading the contest");
    }
out:
    sqlite3_finalize(s);
    return rc;
}

int pw_ledger_open(struct pw_ledger **out, const char *path)
{
    int64_t id = 0, version = 0;
    int rc, status;
    *out = NULL;
    PW_CHECK(!strstr(path, "://"), PW_E_UNSUPPORTED, "%s: a ledger on a database server is not supported, only a file", path);
    PW_CHECK(!pw_is_dir(path), PW_E_IO, "%s: is a folder, expected a ledger file", path);
    PW_CHECK(pw_file_exists(path), PW_E_IO, "%s: no such ledger", path);
    struct pw_ledger *l = pw_alloc_zero(1, sizeof *l);
    PW_CHECK(l, PW_E_NOMEM, "%s: no memory", path);
    l->path = pw_strdup(path);
    PW_CHECK_OUT(l->path, PW_E_NOMEM, "%s: no memory", path);
    /* Read-write even to read: a journal left by a killed writer must be rolled back. SQLite falls back to read-only itself. */
    status = open_db(path, SQLITE_OPEN_READWRITE, &l->db);
    if (status != SQLITE_OK) {
        rc = db_error(path, l->db, status, "opening the ledger");
        goto out;
    }
    sqlite3_busy_timeout(l->db, BUSY_MS);
    PW_PASS_OUT(get_pragma(path, l->db, "PRAGMA application_id", &id));
    PW_PASS_OUT(get_pragma(path, l->db, "PRAGMA user_version", &version));
    PW_CHECK_OUT(id == APPLICATION_ID, PW_E_FORMAT, "%s: an SQLite file, but not a ledger", path);
    PW_CHECK_OUT(version == FORMAT_VERSION, PW_E_UNSUPPORTED, "%s: ledger format %lld, this program knows %d", path,
                 (long long)version, FORMAT_VERSION);
    PW_PASS_OUT(run(path, l->db, "PRAGMA synchronous=EXTRA; PRAGMA foreign_keys=OFF; PRAGMA trusted_schema=OFF;", "opening the ledger"));
    PW_PASS_OUT(read_contest(l));
    PW_PASS_OUT(read_head(l));
out:
    if (rc < 0)
        pw_ledger_close(l);
    else
        *out = l;
    return rc;
}

void pw_ledger_close(struct pw_ledger *l)
{
    if (!l)
        return;
    pw_ledger_rollback(l);
    sqlite3_finalize(l->insert);
    sqlite3_finalize(l->rollback);
    sqlite3_close(l->db);
    pw_free(l->path);
    pw_free(l->contest);
    pw_free(l);
}

const char *pw_ledger_path(const struct pw_ledger *l) { return l->path; }
const char *pw_ledger_contest(const struct pw_ledger *l) { return l->contest; }
int64_t pw_ledger_count(const struct pw_ledger *l) { return l->count; }
const char *pw_ledger_root(const struct pw_ledger *l) { return l->root; }
const char *pw_ledger_genesis(const struct pw_ledger *l) { return l->genesis; }

/* ---- writing ---------------------------------------------------------------------------------------------------------- */
int pw_ledger_begin(struct pw_ledger *l)
{
    if (!l->rollback)
        PW_PASS(prepare(l->path, l->db, "ROLLBACK", &l->rollback));
    PW_PASS(run(l->path, l->db, "BEGIN IMMEDIATE", "starting to write"));
    l->writing = true;
    int rc = read_head(l);
    l->count_before = l->count;
    memcpy(l->root_before, l->root, sizeof l->root);
    if (rc == 0 && !l->insert)
        rc = prepare(l->path, l->db, "INSERT INTO record VALUES (?, ?, ?)", &l->insert);
    if (rc < 0)
        pw_ledger_rollback(l);
    return rc;
}

int pw_ledger_append(struct pw_ledger *l, const char *record, size_t bytes, char hash[65])
{
    char next[65];
    PW_CHECK(l->writing, PW_E_FAIL, "%s: no transaction is open", l->path);
    pw_ledger_hash(l->root, record, bytes, next);
    sqlite3_reset(l->insert);
    sqlite3_bind_int64(l->insert, 1, l->count + 1);
    sqlite3_bind_text64(l->insert, 2, record, bytes, SQLITE_STATIC, SQLITE_UTF8);
    sqlite3_bind_text(l->insert, 3, next, 64, SQLITE_STATIC);
    int status = sqlite3_step(l->insert);
    sqlite3_reset(l->insert);
    sqlite3_clear_bindings(l->insert);
    if (status != SQLITE_DONE)
        return db_error(l->path, l->db, status, "writing a record");
    l->count++;
    memcpy(l->root, next, sizeof next);
    if (hash)
        memcpy(hash, next, sizeof next);
    return 0;
}

int pw_ledger_commit(struct pw_ledger *l)
{
    PW_CHECK(l->writing, PW_E_FAIL, "%s: no transaction is open", l->path);
    int64_t seals = 0;
    int rc = get_pragma(l->path, l->db, "SELECT max(n) FROM seal", &seals);
    if (rc == 0)
        rc = insert_row(l->path, l->db, "INSERT INTO seal VALUES (?, ?, ?)", seals + 1, NULL, (size_t)l->count, l->root);
    if (rc == 0)
        rc = run(l->path, l->db, "COMMIT", "making the votes durable");
    if (rc < 0)
        pw_ledger_rollback(l);
    else
        l->writing = false;
    return rc;
}

void pw_ledger_rollback(struct pw_ledger *l)
{
    if (!l->writing)
        return;
    (void)sqlite3_step(l->rollback); /* may be rolled back already; there is nothing else to do */
    (void)sqlite3_reset(l->rollback);
    l->writing = false;
    l->count = l->count_before;
    memcpy(l->root, l->root_before, sizeof l->root);
}

/* ---- reading ---------------------------------------------------------------------------------------------------------- */
int pw_ledger_each(struct pw_ledger *l, int (*fn)(void *context, const struct pw_record *r), void *context)
{
    sqlite3_stmt *s = NULL;
    int rc = 0, status;
    int64_t expected = 1;
    PW_PASS(prepare(l->path, l->db, "SELECT n, body, hash FROM record ORDER BY n", &s));
    while ((status = sqlite3_step(s)) == SQLITE_ROW) {
        struct pw_record r = { .n = sqlite3_column_int64(s, 0) };
        char what[48];
        size_t n;
        sqlite3_snprintf(sizeof what, what, "record %lld", (long long)expected);
        PW_CHECK_OUT(r.n == expected, PW_E_FORMAT, "%s: %s is missing, the next is %lld", l->path, what, (long long)r.n);
        PW_PASS_OUT(get_text(s, 1, l->path, what, &r.body, &r.bytes));
        PW_PASS_OUT(get_text(s, 2, l->path, what, &r.hash, &n));
        PW_PASS_OUT(fn(context, &r));
        expected++;
    }
    if (status != SQLITE_DONE)
        rc = db_error(l->path, l->db, status, "reading the records");
out:
    sqlite3_finalize(s);
    return rc;
}

/* ---- verifying -------------------------------------------------------------------------------------------------------- */
static const char schema_query[] = "SELECT type || ' ' || name || ' ' || coalesce(sql, '') FROM sqlite_schema ORDER BY type, name";

static int verify_schema(struct pw_ledger *l)
{
    sqlite3 *fresh = NULL;
    sqlite3_stmt *want = NULL, *got = NULL;
    starved = false;
    int rc, status = open_db(":memory:", SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE, &fresh);
    if (status != SQLITE_OK) {
        rc = db_error(l->path, fresh, status, "checking the tables");
        goto out;
    }
    PW_PASS_OUT(run(l->path, fresh, schema, "checking the tables"));
    PW_PASS_OUT(prepare(l->path, fresh, schema_query, &want));
    PW_PASS_OUT(prepare(l->path, l->db, schema_query, &got));
    for (;;) {
        int a = sqlite3_step(want), b = sqlite3_step(got);
        if (a == SQLITE_DONE && b == SQLITE_DONE)
            break;
        const char *x = a == SQLITE_ROW ? (const char *)sqlite3_column_text(want, 0) : NULL;
        const char *y = b == SQLITE_ROW ? (const char *)sqlite3_column_text(got, 0) : NULL;
        PW_CHECK_OUT(!starved, PW_E_NOMEM, "%s: no memory to check its tables", l->path);
        PW_CHECK_OUT(b == SQLITE_ROW || b == SQLITE_DONE, PW_E_FORMAT, "%s: the tables cannot be read: %s", l->path,
                     sqlite3_errmsg(l->db));
        PW_CHECK_OUT(x && y && strcmp(x, y) == 0, PW_E_FORMAT,
                     "%s: its tables or triggers were changed (expected '%.60s', got '%.60s')", l->path, x ? x : "nothing more",
                     y ? y : "nothing more");
    }
out:
    sqlite3_finalize(want);
    sqlite3_finalize(got);
    sqlite3_close(fresh);
    return rc;
}

static int verify_pages(struct pw_ledger *l)
{
    sqlite3_stmt *s = NULL;
    int rc = 0;
    PW_PASS(prepare(l->path, l->db, "PRAGMA integrity_check(1)", &s));
    starved = false;
    int status = sqlite3_step(s);
    const char *text = status == SQLITE_ROW ? (const char *)sqlite3_column_text(s, 0) : NULL;
    if (starved && (!text || strcmp(text, "ok") != 0))
        rc = pw_error(PW_E_NOMEM, "%s: no memory to check its pages", l->path);
    else if (!text || strcmp(text, "ok") != 0)
        rc = pw_error(PW_E_FORMAT, "%s: the file is damaged: %.200s", l->path, text ? text : sqlite3_errmsg(l->db));
    sqlite3_finalize(s);
    return rc;
}

/* Seals lie beside the records in order of their counts; this walks both at once. */
struct chain { struct pw_ledger *l; char root[65]; sqlite3_stmt *seals; int64_t seal_n, seal_records, last_sealed; char seal_root[65]; bool has_seal; };

static int next_seal(struct chain *c)
{
    int status = sqlite3_step(c->seals);
    c->has_seal = status == SQLITE_ROW;
    if (!c->has_seal)
        return status == SQLITE_DONE ? 0 : db_error(c->l->path, c->l->db, status, "reading the seals");
    int64_t n = sqlite3_column_int64(c->seals, 0), records = sqlite3_column_int64(c->seals, 1);
    char what[48];
    sqlite3_snprintf(sizeof what, what, "seal %lld", (long long)(c->seal_n + 1));
    PW_CHECK(n == c->seal_n + 1, PW_E_FORMAT, "%s: %s is missing, the next is %lld", c->l->path, what, (long long)n);
    PW_CHECK(sqlite3_column_type(c->seals, 1) == SQLITE_INTEGER && records >= c->seal_records, PW_E_FORMAT,
             "%s: %s counts %lld records, the one before it %lld", c->l->path, what, (long long)records, (long long)c->seal_records);
    c->seal_n = n;
    c->seal_records = records;
    return get_hash(c->seals, 2, c->l->path, what, c->seal_root);
}

static int match_seals(struct chain *c, int64_t n)
{
    while (c->has_seal && c->seal_records == n) {
        PW_CHECK(memcmp(c->seal_root, c->root, 64) == 0, PW_E_FORMAT,
                 "%s: seal %lld, after record %lld, does not fit the records (expected %s, got %s)", c->l->path, (long long)c->seal_n,
                 (long long)n, c->root, c->seal_root);
        c->last_sealed = n;
        PW_PASS(next_seal(c));
    }
    return 0;
}

static int verify_record(void *context, const struct pw_record *r)
{
    struct chain *c = context;
    char hash[65];
    PW_PASS(match_seals(c, r->n - 1));
    pw_ledger_hash(c->root, r->body, r->bytes, hash);
    PW_CHECK(strcmp(r->hash, hash) == 0, PW_E_FORMAT, "%s: record %lld does not fit its hash (expected %s, got %.80s)", c->l->path,
             (long long)r->n, hash, r->hash);
    memcpy(c->root, hash, sizeof hash);
    return 0;
}

int pw_ledger_verify(struct pw_ledger *l)
{
    struct chain c = { .l = l };
    int rc;
    PW_PASS(verify_schema(l));
    PW_PASS(verify_pages(l));
    pw_ledger_hash_contest(l->contest, l->contest_bytes, c.root);
    PW_CHECK(strcmp(c.root, l->genesis) == 0, PW_E_FORMAT, "%s: the contest does not fit its hash (expected %s, got %s)", l->path,
             c.root, l->genesis);
    PW_PASS(prepare(l->path, l->db, "SELECT n, records, root FROM seal ORDER BY n", &c.seals));
    PW_PASS_OUT(next_seal(&c));
    PW_CHECK_OUT(c.has_seal && c.seal_records == 0, PW_E_FORMAT, "%s: the seal of the empty ledger is missing", l->path);
    PW_PASS_OUT(read_head(l));
    PW_PASS_OUT(pw_ledger_each(l, verify_record, &c));
    PW_PASS_OUT(match_seals(&c, l->count));
    PW_CHECK_OUT(!c.has_seal, PW_E_FORMAT, "%s: records are missing at the end: seal %lld counts %lld, the ledger holds %lld", l->path,
                 (long long)c.seal_n, (long long)c.seal_records, (long long)l->count);
    PW_CHECK_OUT(c.last_sealed == l->count, PW_E_FORMAT, "%s: record %lld is not sealed, the seals end after record %lld", l->path,
                 (long long)(c.last_sealed + 1), (long long)c.last_sealed);
    PW_CHECK_OUT(memcmp(c.root, l->root, 64) == 0, PW_E_FORMAT, "%s: the root changed while it was checked", l->path);
out:
    sqlite3_finalize(c.seals);
    return rc;
}
