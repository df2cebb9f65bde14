/* Counting ballots, see tally.h. Owns the per-voter arrays; knows no ranking and no file. */
#include "eval/tally.h"

#include <string.h>
#include "base/error.h"

/* Sums stay below this, so that their squares times the number of entries fit 128 bits. */
#define CELL_MAX INT64_C(1000000000000)

void pw_tally_open(struct pw_tally *t, const struct pw_contest *c)
{
    memset(t, 0, sizeof *t);
    t->contest = c;
}

void pw_tally_free(struct pw_tally *t)
{
    if (!t)
        return;
    pw_names_free(&t->voters);
    pw_names_free(&t->cell_index);
    pw_names_free(&t->pair_index);
    pw_names_free(&t->rating_index);
    pw_names_free(&t->ids);
    pw_free(t->spent);
    pw_free(t->cells);
    pw_free(t->pairs);
    pw_free(t->ratings);
    pw_free(t->id_content);
    pw_buf_free(&t->scratch);
    memset(t, 0, sizeof *t);
}

static int grow(void **items, int64_t *cap, int64_t need, size_t size)
{
    if (need <= *cap)
        return 0;
    int64_t next = *cap ? 2 * *cap : 64;
    while (next < need)
        next *= 2;
    void *p = pw_realloc(*items, (size_t)*cap * size, (size_t)next * size);
    PW_CHECK(p, PW_E_NOMEM, "no memory for %lld ballots", (long long)next);
    *items = p;
    *cap = next;
    return 0;
}

/* ---- prices ----------------------------------------------------------------------------------------------------------- */
static int64_t counted(const struct pw_contest *c, int64_t coins)
{
    return coins < 0 && c->negative == PW_NEGATIVE_ZERO ? 0 : coins;
}

static __int128 price(const struct pw_contest *c, int64_t coins)
{
    __int128 x = coins < 0 ? -(__int128)coins : coins;
    return c->cost_is_quadratic ? x * x : x;
}

/* Decimal text of a price: printf knows no 128-bit integers. */
static const char *price_text(char out[48], __int128 x)
{
    char *p = out + 47;
    *p = 0;
    do {
        *--p = (char)('0' + (int)(x % 10));
        x /= 10;
    } while (x);
    return p;
}

/* ---- keys: 8-byte numbers and texts in a buffer, looked up as one name ------------------------------------------------- */
static void key_number(struct pw_buf *b, int64_t x)
{
    pw_buf_add(b, &x, sizeof x);
}

static int cell_key(struct pw_tally *t, int64_t voter, int64_t entry)
{
    pw_buf_clear(&t->scratch);
    key_number(&t->scratch, voter);
    key_number(&t->scratch, entry);
    return pw_buf_status(&t->scratch);
}

static int pair_key(struct pw_tally *t, int64_t voter, const struct pw_ballot *b)
{
    pw_buf_clear(&t->scratch);
    key_number(&t->scratch, voter);
    key_number(&t->scratch, b->entry < b->right ? b->entry : b->right);
    key_number(&t->scratch, b->entry < b->right ? b->right : b->entry);
    pw_buf_str(&t->scratch, b->prompt ? b->prompt : "");
    return pw_buf_status(&t->scratch);
}

static int id_key(struct pw_tally *t, int64_t voter, const struct pw_ballot *b)
{
    pw_buf_clear(&t->scratch);
    key_number(&t->scratch, voter);
    key_number(&t->scratch, b->kind);
    key_number(&t->scratch, b->entry);
    key_number(&t->scratch, b->right);
    pw_buf_str(&t->scratch, b->id);
    return pw_buf_status(&t->scratch);
}

static uint64_t content_hash(const struct pw_ballot *b)
{
    uint64_t rating;
    memcpy(&rating, &b->rating, sizeof rating);
    uint64_t parts[] = { (uint64_t)b->choice, b->has_coins, (uint64_t)b->coins, rating }, h = 0;
    for (size_t i = 0; i < sizeof parts / sizeof parts[0]; i++) {
        h = (h ^ parts[i]) * 0x9e3779b97f4a7c15u;
        h ^= h >> 29;
    }
    return h;
}

static int64_t find_key(const struct pw_names *names, const struct pw_buf *key)
{
    return pw_names_find(names, key->data, key->len);
}

/* ---- checking --------------------------------------------------------------------------------------------------------- */
/* What the voter would have spent after this ballot, and the cell's new sum. */
static int spend_after(struct pw_tally *t, int64_t voter, const struct pw_ballot *b, __int128 *spent, int64_t *sum)
{
    const struct pw_contest *c = t->contest;
    int64_t now = counted(c, b->coins), before = 0, at;
    *spent = voter >= 0 ? t->spent[voter] : 0;
    *sum = now;
    if (b->kind == PW_BALLOT_COINS) {
        if (voter >= 0) {
            PW_PASS(cell_key(t, voter, b->entry));
            at = find_key(&t->cell_index, &t->scratch);
            before = at >= 0 ? t->cells[at].coins : 0;
        }
        *sum = c->repeat_replaces ? now : before + now;
    } else if (b->kind == PW_BALLOT_PAIRS && c->repeat_replaces && voter >= 0) {
        PW_PASS(pair_key(t, voter, b));
        at = find_key(&t->pair_index, &t->scratch);
        before = at >= 0 ? t->pairs[at].coins : 0;
    }
    *spent += price(c, *sum) - price(c, before);
    PW_CHECK(*sum <= CELL_MAX && *sum >= -CELL_MAX, PW_E_FORMAT, "the voter's coins on it sum up to more than %lld", (long long)CELL_MAX);
    return 0;
}

int pw_tally_check(struct pw_tally *t, const struct pw_ballot *b, bool *repeated)
{
    const struct pw_contest *c = t->contest;
    int64_t voter = pw_names_find(&t->voters, b->voter, b->voter_len), sum;
    __int128 spent;
    *repeated = false;
    if (b->id && voter >= 0) {
        PW_PASS(id_key(t, voter, b));
        int64_t at = find_key(&t->ids, &t->scratch);
        if (at >= 0) {
            PW_CHECK(t->id_content[at] == content_hash(b), PW_E_FORMAT, "the voter used id '%s' before, for another ballot", b->id);
            *repeated = true;
            return 0;
        }
    }
    PW_PASS(spend_after(t, voter, b, &spent, &sum));
    if (c->has_budget && spent > c->budget) {
        char text[48];
        const char *shown = price_text(text, spent);
        return pw_error(PW_E_FORMAT, "over the budget: voter '%.200s' would have spent %s of %lld%s", b->voter, shown, (long long)c->budget,
                        c->cost_is_quadratic ? " (n votes on an entry cost n*n)" : "");
    }
    return 0;
}

/* ---- adding ----------------------------------------------------------------------------------------------------------- */
static int add_voter(struct pw_tally *t, const struct pw_ballot *b, int64_t *voter)
{
    int64_t before = t->cap_spent;
    PW_PASS(pw_names_add(&t->voters, b->voter, b->voter_len, voter));
    PW_PASS(grow((void **)&t->spent, &t->cap_spent, t->voters.n, sizeof *t->spent));
    if (t->cap_spent > before)
        memset(t->spent + before, 0, (size_t)(t->cap_spent - before) * sizeof *t->spent);
    return 0;
}

static int add_coins(struct pw_tally *t, int64_t voter, const struct pw_ballot *b, int64_t sum)
{
    int64_t at, n = t->cell_index.n;
    PW_PASS(cell_key(t, voter, b->entry));
    PW_PASS(grow((void **)&t->cells, &t->cap_cells, n + 1, sizeof *t->cells));
    PW_PASS(pw_names_add(&t->cell_index, t->scratch.data, t->scratch.len, &at));
    if (at == n) {
        t->cells[at] = (struct pw_cell){ .voter = voter, .entry = b->entry };
        t->n_cells = n + 1;
    }
    bool counts = counted(t->contest, b->coins) != 0;
    t->cells[at].coins = sum;
    t->cells[at].votes = t->contest->repeat_replaces ? counts : t->cells[at].votes + counts;
    return 0;
}

static int add_pair(struct pw_tally *t, int64_t voter, const struct pw_ballot *b)
{
    int64_t at = t->n_pairs;
    PW_PASS(grow((void **)&t->pairs, &t->cap_pairs, at + 1, sizeof *t->pairs));
    if (t->contest->repeat_replaces) {
        PW_PASS(pair_key(t, voter, b));
        PW_PASS(pw_names_add(&t->pair_index, t->scratch.data, t->scratch.len, &at));
    }
    t->pairs[at] = (struct pw_pair){ voter, b->entry, b->right, counted(t->contest, b->coins), b->choice, b->has_coins };
    if (at == t->n_pairs)
        t->n_pairs++;
    return 0;
}

static int add_rating(struct pw_tally *t, int64_t voter, const struct pw_ballot *b)
{
    int64_t at = t->n_ratings;
    PW_PASS(grow((void **)&t->ratings, &t->cap_ratings, at + 1, sizeof *t->ratings));
    if (t->contest->repeat_replaces) {
        PW_PASS(cell_key(t, voter, b->entry));
        PW_PASS(pw_names_add(&t->rating_index, t->scratch.data, t->scratch.len, &at));
    }
    t->ratings[at] = (struct pw_rating){ voter, b->entry, b->rating };
    if (at == t->n_ratings)
        t->n_ratings++;
    return 0;
}

int pw_tally_add(struct pw_tally *t, const struct pw_ballot *b)
{
    int64_t voter, sum, at;
    __int128 spent;
    PW_PASS(add_voter(t, b, &voter));
    if (b->id) {
        PW_PASS(id_key(t, voter, b));
        PW_PASS(grow((void **)&t->id_content, &t->cap_ids, t->ids.n + 1, sizeof *t->id_content));
        PW_PASS(pw_names_add(&t->ids, t->scratch.data, t->scratch.len, &at));
        t->id_content[at] = content_hash(b);
    }
    PW_PASS(spend_after(t, voter, b, &spent, &sum));
    PW_PASS(b->kind == PW_BALLOT_COINS ? add_coins(t, voter, b, sum) : b->kind == PW_BALLOT_PAIRS ? add_pair(t, voter, b) : add_rating(t, voter, b));
    t->spent[voter] = spent;
    t->n_ballots++;
    t->n_of_kind[b->kind]++;
    t->n_untimed += !b->time;
    return 0;
}

struct loading { struct pw_tally *t; struct pw_arena a; const char *where; };

static int load_record(void *context, const struct pw_record *r)
{
    struct loading *x = context;
    struct pw_ballot b;
    pw_arena_reset(&x->a);
    PW_PASS(pw_ballot_decode(&b, x->t->contest, r->body, r->bytes, &x->a, x->where, r->n));
    PW_TRY(pw_tally_add(x->t, &b), "counting record %lld of %s", (long long)r->n, x->where);
    return 0;
}

int pw_tally_load(struct pw_tally *t, struct pw_ledger *l)
{
    struct loading x = { .t = t, .where = pw_ledger_path(l) };
    PW_PASS(pw_arena_init(&x.a));
    int rc = pw_ledger_each(l, load_record, &x);
    pw_arena_free(&x.a);
    return rc;
}
