/* Quantising to NF4 and FP4 over vectors of LANES floats: a part of isa_body.h. The codes are those of pw_nf4_code and pw_fp4_code, bit for bit.
 *
 * Among the fifteen thresholds, ascending, those below x are counted by four questions: is x above the eighth, then above the middle one of
 * those left, and so on. FP4 has seven for the magnitude (the others are infinite), an order of codes of its own, and a sign. */
INLINE vf look_up(const float *table, vi code) { return (vf)lookup16(table, (__typeof__(unpack4(NULL)))code); } /* of the lowest four bits */

INLINE vi count_below(const float *threshold, vf x)
{
    vi n = (vi)(x > vset(threshold[7])) & 8;
    n += (vi)(x > look_up(threshold + 3, n)) & 4;   /* threshold[n + 3]: n is 0 or 8, the table goes on far enough */
    n += (vi)(x > look_up(threshold + 1, n)) & 2;
    n += (vi)(x > look_up(threshold, n)) & 1;
    return n;
}

struct codes4 { float threshold[20], code[16]; bool sign; };

INLINE vi codes_of(const struct codes4 *t, vf x)
{
    if (!t->sign) return count_below(t->threshold, x);
    vi negative = (vi)(x < vset(0)) & 8, n = count_below(t->threshold, (vf)((vi)x & 0x7fffffff));
    return __builtin_convertvector(look_up(t->code, n), vi) + negative;
}

typedef uint64_t code_pairs __attribute__((vector_size(LANES * 4)));
typedef uint8_t codes8 __attribute__((vector_size(LANES / 2)));
INLINE codes8 pack_codes(vi c)
{
    code_pairs p = (code_pairs)c; /* the first of two codes in the low word */
    return __builtin_convertvector((p << 4 | p >> 32) & 0xff, codes8);
}

static void encode4_block(const struct codes4 *t, int64_t n, const float *x, uint8_t *code, float *absmax)
{
    vf most = vset(0);
    float top = 0;
    int64_t i = 0;
    for (; i + LANES <= n; i += LANES) {
        vf a = (vf)((vi)vload(x + i) & 0x7fffffff);
        most = vpick(a > most, a, most);
    }
    float lane[LANES];
    memcpy(lane, &most, sizeof lane);
    for (int half = LANES / 2; half > 0; half /= 2)
        for (int l = 0; l < half; l++) lane[l] = lane[l + half] > lane[l] ? lane[l + half] : lane[l];
    top = lane[0];
    for (; i < n; i++) top = fabsf(x[i]) > top ? fabsf(x[i]) : top;
    *absmax = top;
    const float inverse = pw_block_inverse(top);
    for (i = 0; i + LANES <= n; i += LANES) {
        codes8 b = pack_codes(codes_of(t, vload(x + i) * inverse));
        memcpy(code + i / 2, &b, sizeof b);
    }
    if (i < n) { /* what is not there has code 0, as ever */
        vi c = codes_of(t, vload_part(x + i, n - i) * inverse);
        for (int l = 0; l < LANES; l++) c[l] = l < n - i ? c[l] : 0;
        codes8 b = pack_codes(c);
        memcpy(code + i / 2, &b, (size_t)(n - i + 1) / 2);
    }
}

static void encode4(enum pw_qtype type, int64_t n, int block, const float *x, uint8_t *code, float *absmax)
{
    static const float above[7] = { PW_FP4_ABOVE }, order[7] = { PW_FP4_CODES };
    struct codes4 t = { .sign = type == PW_Q_FP4 };
    for (int i = 0; i < 20; i++) t.threshold[i] = INFINITY;
    if (t.sign) {
        for (int i = 0; i < 7; i++) {
            t.threshold[i] = above[6 - i];
            t.code[i + 1] = order[6 - i];
        }
    } else {
        memcpy(t.threshold, pw_nf4_threshold, sizeof pw_nf4_threshold);
    }
    for (int64_t first = 0; first < n; first += block)
        encode4_block(&t, n - first < block ? n - first : block, x + first, code + first / 2, absmax + first / block);
}
