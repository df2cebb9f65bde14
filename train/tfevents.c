/* See tfevents.h. */
#include "train/tfevents.h"

#include <string.h>

#include "base/error.h"
#include "base/file.h"

uint32_t pw_crc32c(const void *bytes, size_t n)
{
    const uint8_t *p = bytes;
    uint32_t crc = 0xffffffff;
    for (size_t i = 0; i < n; i++) {      /* bit by bit: a log is small */
        crc ^= p[i];
        for (int k = 0; k < 8; k++)
            crc = crc >> 1 ^ (crc & 1 ? 0x82f63b78 : 0);
    }
    return ~crc;
}

static void little(struct pw_buf *out, uint64_t x, int bytes)
{
    for (int i = 0; i < bytes; i++)
        pw_buf_char(out, (char)(x >> 8 * i & 0xff));
}

/* A checksum stored beside the data it covers is masked, so that the CRC of both is not a constant. */
static uint32_t masked(const void *bytes, size_t n)
{
    const uint32_t crc = pw_crc32c(bytes, n);
    return ((crc >> 15) | (crc << 17)) + 0xa282ead8;
}

void pw_tfevents_record(struct pw_buf *out, const void *bytes, size_t n)
{
    uint8_t length[8];
    for (int i = 0; i < 8; i++)
        length[i] = (uint8_t)((uint64_t)n >> 8 * i);
    pw_buf_add(out, length, sizeof length);
    little(out, masked(length, sizeof length), 4);
    pw_buf_add(out, bytes, n);
    little(out, masked(bytes, n), 4);
}

/* ---- protobuf's wire format ---- */

enum { VARINT = 0, FIXED64 = 1, BYTES = 2, FIXED32 = 5 };

static void varint(struct pw_buf *out, uint64_t x)
{
    for (; x > 127; x >>= 7)
        pw_buf_char(out, (char)((x & 127) | 128));
    pw_buf_char(out, (char)x);
}

static void key(struct pw_buf *out, unsigned field, unsigned wire)
{
    varint(out, (field << 3) | wire);
}

static void bytes_field(struct pw_buf *out, unsigned field, const void *bytes, size_t n)
{
    key(out, field, BYTES);
    varint(out, n);
    pw_buf_add(out, bytes, n);
}

struct writer { struct pw_buf out, event, summary, value; double time; };

/* Event: wall_time = 1, step = 2, file_version = 3, summary = 5. */
static void event(struct writer *w, int64_t step, unsigned field, const void *bytes, size_t n)
{
    uint64_t bits;
    memcpy(&bits, &w->time, sizeof bits);
    pw_buf_clear(&w->event);
    key(&w->event, 1, FIXED64);
    little(&w->event, bits, 8);
    key(&w->event, 2, VARINT);
    varint(&w->event, (uint64_t)step);
    bytes_field(&w->event, field, bytes, n);
    pw_tfevents_record(&w->out, w->event.data ? w->event.data : "", w->event.len);
}

/* Summary: value = 1, repeated; Summary.Value: tag = 1, simple_value = 2. */
static void scalar(struct writer *w, const char *tag, double x)
{
    const float narrow = (float)x;
    uint32_t bits;
    memcpy(&bits, &narrow, sizeof bits);
    pw_buf_clear(&w->value);
    bytes_field(&w->value, 1, tag, strlen(tag));
    key(&w->value, 2, FIXED32);
    little(&w->value, bits, 4);
    bytes_field(&w->summary, 1, w->value.data ? w->value.data : "", w->value.len);
}

int pw_tfevents_write(const struct pw_log_line *lines, size_t n, double began, const char *path)
{
    static const char version[] = "brain.Event:2";
    struct writer w = {.time = began};
    int rc = 0;
    event(&w, 0, 3, version, sizeof version - 1);
    for (size_t i = 0; i < n; i++) {
        const struct pw_log_step *s = &lines[i].s;
        pw_buf_clear(&w.summary);
        if (lines[i].is_eval)
            scalar(&w, "eval/loss", s->loss);
        else {
            w.time = began + s->seconds;
            scalar(&w, "train/loss", s->loss);
            scalar(&w, "train/lr", s->lr);
            scalar(&w, "train/grad_norm", s->grad_norm);
            scalar(&w, "train/tokens_per_s", s->tokens_per_s);
            scalar(&w, "train/memory_bytes", (double)s->memory_bytes);
        }
        event(&w, s->step, 5, w.summary.data ? w.summary.data : "", w.summary.len);
    }
    /* A piece that ran out of memory left its parents short, so all four are asked. */
    PW_PASS_OUT(pw_buf_status(&w.value));
    PW_PASS_OUT(pw_buf_status(&w.summary));
    PW_PASS_OUT(pw_buf_status(&w.event));
    PW_PASS_OUT(pw_buf_status(&w.out));
    PW_PASS_OUT(pw_file_write(path, w.out.data, w.out.len, true));
out:
    pw_buf_free(&w.value);
    pw_buf_free(&w.summary);
    pw_buf_free(&w.event);
    pw_buf_free(&w.out);
    return rc;
}
