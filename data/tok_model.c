/* SentencePiece .model files: the protobuf of ModelProto, read by hand.
 *
 * Fields: 1 pieces {1 text, 2 score f32, 3 type}, 2 trainer {3 model type, 24 space as suffix, 35 byte fallback, 44 surface of
 * the unknown piece, 45..48 unk/bos/eos/pad piece}, 3 normaliser {2 charsmap, 3 dummy prefix, 4 remove spaces, 5 escape
 * spaces}, 5 denormaliser (as 3). Unknown fields are skipped, groups refused. Source: sentencepiece_model.proto. */
#include <string.h>

#include "base/error.h"
#include "data/tok_parts.h"

struct reader { const uint8_t *p; size_t n; size_t at; size_t base; const char *where; };
struct field { uint32_t number, type; uint64_t value; struct reader bytes; };
enum { WIRE_VARINT = 0, WIRE_64 = 1, WIRE_BYTES = 2, WIRE_32 = 5 };

struct model {
    struct pw_tok_piece *pieces;
    size_t n, cap;
    int64_t type;
    bool byte_fallback, suffix, prefix, squeeze, escape;
    struct pw_tok_text charsmap, denormaliser, unk_surface, unk, bos, eos, pad;
};

static int varint(struct reader *r, uint64_t *out)
{
    uint64_t v = 0;
    for (unsigned shift = 0; shift < 70; shift += 7) {
        PW_CHECK(r->at < r->n, PW_E_FORMAT, "%s: ends inside a number at byte %zu", r->where, r->base + r->at);
        uint8_t b = r->p[r->at++];
        PW_CHECK(shift < 63 || b < 2, PW_E_FORMAT, "%s: a number of more than 64 bits at byte %zu", r->where, r->base + r->at);
        v |= (uint64_t)(b & 0x7F) << shift;
        if (b < 0x80) {
            *out = v;
            return 0;
        }
    }
    return pw_error(PW_E_FORMAT, "%s: a number of more than 64 bits at byte %zu", r->where, r->base + r->at);
}

/* 1: a field; 0: the end. */
static int next(struct reader *r, struct field *f)
{
    uint64_t key, n;
    size_t start = r->base + r->at;
    if (r->at == r->n)
        return 0;
    PW_PASS(varint(r, &key));
    f->number = (uint32_t)(key >> 3);
    f->type = key & 7;
    PW_CHECK(key >> 3 > 0 && key >> 3 < 1u << 29, PW_E_FORMAT, "%s: not a SentencePiece model: a field without a number at byte %zu", r->where, start);
    switch (f->type) {
    case WIRE_VARINT:
        PW_PASS(varint(r, &f->value));
        return 1;
    case WIRE_64:
    case WIRE_32:
        n = f->type == WIRE_64 ? 8 : 4;
        PW_CHECK(r->n - r->at >= n, PW_E_FORMAT, "%s: ends inside field %u at byte %zu", r->where, f->number, start);
        f->value = 0;
        memcpy(&f->value, r->p + r->at, n); /* little-endian, as the machine */
        break;
    case WIRE_BYTES:
        PW_PASS(varint(r, &n));
        PW_CHECK(n <= r->n - r->at, PW_E_FORMAT, "%s: field %u at byte %zu: %llu bytes, but %zu are left", r->where, f->number, start, (unsigned long long)n, r->n - r->at);
        f->bytes = (struct reader){ r->p + r->at, (size_t)n, 0, r->base + r->at, r->where };
        break;
    default:
        return pw_error(PW_E_FORMAT, "%s: not a SentencePiece model: field %u of type %u at byte %zu", r->where, f->number, f->type, start);
    }
    r->at += n;
    return 1;
}

static int expect(const struct field *f, unsigned type, const struct reader *r, const char *name)
{
    PW_CHECK(f->type == type, PW_E_FORMAT, "%s: %s: field %u before byte %zu has wire type %u (expected %u)", r->where, name, f->number, r->base + r->at, f->type, type);
    return 0;
}

static int take_bool(const struct field *f, const struct reader *r, const char *name, bool *out)
{
    PW_PASS(expect(f, WIRE_VARINT, r, name));
    *out = f->value != 0;
    return 0;
}

static int take_text(const struct field *f, const struct reader *r, const char *name, struct pw_tok_text *out)
{
    PW_PASS(expect(f, WIRE_BYTES, r, name));
    *out = (struct pw_tok_text){ (const char *)f->bytes.p, f->bytes.n };
    return 0;
}

static int read_piece(struct model *m, struct reader *r, const char *where)
{
    struct field f;
    struct pw_tok_piece p = { .text = "", .type = PW_PIECE_NORMAL };
    int rc;
    while ((rc = next(r, &f)) > 0) {
        if (f.number == 1) {
            PW_PASS(expect(&f, WIRE_BYTES, r, "piece"));
            p.text = (const char *)f.bytes.p;
            p.len = f.bytes.n;
        } else if (f.number == 2) {
            PW_PASS(expect(&f, WIRE_32, r, "score"));
            memcpy(&p.score, &f.value, 4);
        } else if (f.number == 3) {
            PW_PASS(expect(&f, WIRE_VARINT, r, "type"));
            PW_CHECK(f.value >= 1 && f.value <= 6, PW_E_FORMAT, "%s: piece %zu: type %llu (expected 1 to 6)", where, m->n, (unsigned long long)f.value);
            p.type = (uint8_t)f.value;
        }
    }
    PW_PASS(rc);
    PW_CHECK(m->n < TOK_ID_LIMIT, PW_E_FORMAT, "%s: more than %d pieces", where, TOK_ID_LIMIT);
    PW_PASS(tok_grow((void **)&m->pieces, &m->cap, m->n + 1, sizeof *m->pieces));
    m->pieces[m->n++] = p;
    return 0;
}

static int read_trainer(struct model *m, struct reader *r)
{
    struct field f;
    int rc;
    while ((rc = next(r, &f)) > 0) {
        switch (f.number) {
        case 3:
            PW_PASS(expect(&f, WIRE_VARINT, r, "trainer_spec.model_type"));
            m->type = f.value < 1000 ? (int64_t)f.value : 1000;
            break;
        case 24: PW_PASS(take_bool(&f, r, "trainer_spec.treat_whitespace_as_suffix", &m->suffix)); break;
        case 35: PW_PASS(take_bool(&f, r, "trainer_spec.byte_fallback", &m->byte_fallback)); break;
        case 44: PW_PASS(take_text(&f, r, "trainer_spec.unk_surface", &m->unk_surface)); break;
        case 45: PW_PASS(take_text(&f, r, "trainer_spec.unk_piece", &m->unk)); break;
        case 46: PW_PASS(take_text(&f, r, "trainer_spec.bos_piece", &m->bos)); break;
        case 47: PW_PASS(take_text(&f, r, "trainer_spec.eos_piece", &m->eos)); break;
        case 48: PW_PASS(take_text(&f, r, "trainer_spec.pad_piece", &m->pad)); break;
        default: break;
        }
    }
    return rc;
}

static int read_normaliser(struct model *m, struct reader *r, bool reverse)
{
    struct field f;
    int rc;
    while ((rc = next(r, &f)) > 0) {
        if (f.number == 2)
            PW_PASS(take_text(&f, r, "normalizer_spec.precompiled_charsmap", reverse ? &m->denormaliser : &m->charsmap));
        else if (f.number == 3 && !reverse)
            PW_PASS(take_bool(&f, r, "normalizer_spec.add_dummy_prefix", &m->prefix));
        else if (f.number == 4 && !reverse)
            PW_PASS(take_bool(&f, r, "normalizer_spec.remove_extra_whitespaces", &m->squeeze));
        else if (f.number == 5 && !reverse)
            PW_PASS(take_bool(&f, r, "normalizer_spec.escape_whitespaces", &m->escape));
    }
    return rc;
}

static int read_model(struct model *m, struct reader *r)
{
    struct field f;
    int rc;
    while ((rc = next(r, &f)) > 0) {
        if (f.number == 0 || f.number > 5 || f.number == 4)
            continue;
        PW_PASS(expect(&f, WIRE_BYTES, r, "model"));
        if (f.number == 1)
            PW_PASS(read_piece(m, &f.bytes, r->where));
        else if (f.number == 2)
            PW_PASS(read_trainer(m, &f.bytes));
        else
            PW_PASS(read_normaliser(m, &f.bytes, f.number == 5));
    }
    return rc;
}

/* The control piece of this text; -1: none. */
static int32_t control(const struct model *m, struct pw_tok_text name)
{
    for (size_t i = 0; i < m->n; i++)
        if (m->pieces[i].type == PW_PIECE_CONTROL && m->pieces[i].len == name.len && memcmp(m->pieces[i].text, name.s, name.len) == 0)
            return (int32_t)i;
    return -1;
}

bool tok_is_spm(const uint8_t *b, size_t n) { return n > 4 && b[0] == 0x0A && b[1] >= 2 && b[2] == 0x0A; }

int tok_from_spm(struct pw_tokenizer *t, const uint8_t *bytes, size_t n, const struct tok_beside *beside, const char *where)
{
    struct model m = { .type = 1, .prefix = true, .squeeze = true, .escape = true, .unk_surface = { " \xE2\x81\x87 ", 5 }, .unk = { "<unk>", 5 },
                       .bos = { "<s>", 3 }, .eos = { "</s>", 4 }, .pad = { "<pad>", 5 } };
    struct reader r = { bytes, n, 0, 0, where };
    size_t unknown = 0;
    char *surface = NULL;
    int rc;
    PW_PASS_OUT(read_model(&m, &r));
    PW_CHECK_OUT(m.type == 1 || m.type == 2, PW_E_UNSUPPORTED, "%s: trainer_spec.model_type %s is not supported", where, m.type == 3 ? "WORD" : m.type == 4 ? "CHAR" : "of an unknown number");
    PW_CHECK_OUT(!m.suffix, PW_E_UNSUPPORTED, "%s: trainer_spec.treat_whitespace_as_suffix is not supported", where);
    PW_CHECK_OUT(m.escape, PW_E_UNSUPPORTED, "%s: normalizer_spec.escape_whitespaces = false is not supported", where);
    PW_CHECK_OUT(m.denormaliser.len == 0, PW_E_UNSUPPORTED, "%s: denormalizer_spec is not supported", where);
    PW_CHECK_OUT(!memchr(m.unk_surface.s, 0, m.unk_surface.len) && pw_utf8_check(m.unk_surface.s, m.unk_surface.len) == m.unk_surface.len, PW_E_FORMAT,
                 "%s: trainer_spec.unk_surface is no text", where);
    struct pw_tok_source s = { .where = where, .pieces = m.pieces, .n = m.n, .bos = control(&m, m.bos), .eos = control(&m, m.eos), .pad = control(&m, m.pad), .unk = -1 };
    for (size_t i = 0; i < m.n; i++) {
        if (m.pieces[i].type == PW_PIECE_UNKNOWN) {
            s.unk = (int32_t)i;
            unknown++;
        }
        PW_CHECK_OUT(m.pieces[i].type != PW_PIECE_BYTE || m.byte_fallback, PW_E_FORMAT, "%s: piece %zu is a byte, but trainer_spec.byte_fallback is not set", where, i);
    }
    PW_CHECK_OUT(unknown == 1, PW_E_FORMAT, "%s: %zu pieces are marked as the unknown one (expected 1)", where, unknown);
    surface = pw_strndup(m.unk_surface.s, m.unk_surface.len);
    PW_CHECK_OUT(surface, PW_E_NOMEM, "%s: no memory", where);
    struct pw_tok_spm spm = { .prefix = m.prefix, .prefix_once = beside && !beside->legacy, .squeeze = m.squeeze, .charsmap = m.charsmap.s,
                              .charsmap_bytes = m.charsmap.len, .unk_surface = surface };
    s.add_bos = beside && beside->add_bos;
    s.add_eos = beside && beside->add_eos;
    rc = tok_fill_spm(t, &s, &spm, beside ? &beside->extra : NULL, m.type == 1);
out:
    pw_free(surface);
    pw_free(m.pieces);
    return rc;
}
