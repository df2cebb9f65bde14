# shellcheck shell=bash
# Planted mistakes, sourced by run.sh, which says what the words mean. Add yours to the part of your folder.

# ---- layers ----
planted "layer: base includes data" base/text.c '#include "data/csv.h"' 'may not include data/' tools/check_layers
planted "layer: base includes kernels" base/text.h '#include "kernels/dev.h"' 'sibling kernels/' tools/check_layers
planted "layer: train includes eval" train/planted.c '#include "eval/stats.h"' 'sibling eval/' tools/check_layers
planted "layer: eval includes train" eval/planted.h '#  include "train/trainer.h"' 'sibling train/' tools/check_layers
planted "layer: infer includes tools" infer/planted.c '#include "tools/cmd.h"' 'may not include tools/' tools/check_layers
planted "layer: cuda includes infer" kernels/cuda/planted.cu '#include "infer/model.h"' 'may not include infer/' tools/check_layers
planted "layer: tools includes tests" tools/planted.c '#include "tests/support.h"' 'may not include tests/' tools/check_layers
planted "layer: include not from the root" data/planted.c '#include "csv.h"' 'from the root' tools/check_layers
planted "layer: include through .." data/planted.c '#include "data/../infer/model.h"' 'from the root' tools/check_layers
planted "layer: include of a macro" data/planted.c '#include HEADER' 'plain name' tools/check_layers

# ---- walls ----
planted "wall: jansson in eval" eval/planted.c '#include <jansson.h>' 'base/json' tools/check_walls
planted "wall: sqlite in data" data/planted.c '# include <sqlite3.h> /* why */' 'eval/ledger' tools/check_walls
planted "wall: check in a library" lora/planted.c '#include <check.h>' 'tests/' tools/check_walls
planted "wall: cblas in a header" kernels/cpu/gemm_planted.h '#include <cblas.h>' 'kernels/cpu/gemm' tools/check_walls
planted "wall: cuda outside its folder" infer/planted.c '#include <cuda_runtime.h>' 'kernels/(cuda|simt)' tools/check_walls
planted "wall: a library without a row" data/planted.c '#include <libxml/parser.h>' 'has no row' tools/check_walls
planted "wall: printf" data/planted.c 'void f(void) { printf("x"); }' 'printf()' tools/check_walls
planted "wall: fprintf to stdout" base/text.c 'void f(void) { fprintf(stdout, "x"); }' 'stdout' tools/check_walls
planted "wall: stderr" infer/planted.c 'void f(void) { fputs("x", stderr); }' 'stderr' tools/check_walls
planted "wall: stdout in the progress line" base/progress.c 'void f(void) { fputs("x", stdout); }' 'stdout' tools/check_walls
planted "wall: exit" quant/planted.c 'void f(void) { /* it is */ exit (1); }' 'exit()' tools/check_walls
planted "wall: abort" kernels/ref/planted.c 'void f(void) { abort(); }' 'abort()' tools/check_walls
planted "wall: getenv" kernels/cpu/planted.c 'const char *s = "/*"; void f(void) { getenv("PW_CPU"); }' 'getenv()' tools/check_walls
planted "wall: system" eval/planted.c "int c = '\"'; void f(void) { system(\"ls\"); }" 'system()' tools/check_walls
planted "wall: malloc" train/planted.c 'void *f(void) { return malloc(1); }' 'malloc()' tools/check_walls
planted "wall: free" lora/planted.c 'void f(void *p) { free(p); }' 'free()' tools/check_walls
planted "wall: PTX in a kernel" kernels/cuda/planted.cu 'SIMT_FN void f(float *p, float x) { asm volatile("red.global.add.f32 [%0], %1;" :: "l"(p), "f"(x)); }' 'wrappers of kernels/cuda/simt.h alone' tools/check_walls
planted "wall: a wrapper without a twin" kernels/cuda/simt.h 'SIMT_FN float ex2(float x) { float d; asm("ex2.approx.f32 %0, %1;" : "=f"(d) : "f"(x)); return d; }' 'ex2 has no twin' tools/check_walls

# ---- base ----
mutant test_base_text base/rng.c 's/0xBB67AE85u/0xBB67AE84u/'
mutant test_base_text base/rng.c 's/round < 10/round < 9/'
mutant test_base_text base/text.c "s/c == 0xED \&\& s\[i + 1\] > 0x9F/c == 0xED \&\& s[i + 1] > 0xBF/"
mutant test_base_text base/error.c 's/\*s == 0x7F ||/false ||/'
mutant test_base_text base/options.c 's/(double)x <= o->max/true/'
mutant test_base_text tests/support.c 's/return fabs(a - b) <= absolute + relative \* fabs(b);/return !(fabs(a - b) > absolute + relative * fabs(b));/'
mutant test_base_value base/jsonw.c 's/if (!isfinite(x)) {/if (false) {/'
mutant test_base_value base/yaml.c 's/if (anchor) return/if (anchor \&\& depth < 0) return/'
mutant test_base_value base/json.c 's/JSON_REJECT_DUPLICATES | //'
mutant test_base_value base/json.c 's/if (++depth <= DEPTH_MAX) continue;/continue;/'
mutant test_base_file base/hash.c 's/blocks \* 512/blocks * 64/'
mutant test_base_file base/outfile.c 's/PW_CHECK_OUT(fflush(o->f) == 0 \&\& !ferror(o->f),/PW_CHECK_OUT(fflush(o->f) <= 0,/'
mutant test_base_file base/outfile.c 's/if (o->temp) unlink(o->temp);//'
mutant test_base_file base/outfile.c 's/RENAME_NOREPLACE) == 0/0) == 0/'
mutant test_base_file base/file.c 's/| O_NOFOLLOW//; s/unlinkat(at, name, 0) == 0 || //'
mutant test_limit base/memory.c 's/if (p \&\& atomic_load_explicit(&pw_limit_kept, memory_order_relaxed)) pw_limit_count(/if (false) pw_limit_count(/'
mutant test_limit base/memory.c 's/if (kept) pw_limit_count((p ? /if (kept) pw_limit_count((false ? /'
mutant test_limit base/limit.c 's/now <= limit - before \&\& resident + asked <= limit/now <= limit - before/'
mutant test_limit base/limit.c 's/now <= limit - before \&\& resident + asked <= limit/resident + asked <= limit/'
mutant test_limit base/limit.c 's/        pw_memory_trim();//'
mutant test_limit base/limit.c 's/, most < now + LOOK_EVERY ? most : now + LOOK_EVERY,/, most,/'
mutant test_limit base/limit.c 's/    atomic_fetch_sub_explicit(&counted, asked, memory_order_relaxed);//'

# ---- kernels ----
mutant test_op kernels/cpu/isa_body.h 's/p\[i\] -= lr/p[i] += lr/' adamw/
mutant test_op kernels/cpu/isa_body.h 's/if (at < k) {/if (at + 1 < k) {/' linear/
mutant test_op kernels/cpu/isa_body.h 's/inv_rms \* (dout\[i\] \* (w\[i\] + w_offset) - x\[i\] \* mean)/inv_rms * (dout[i] * (w[i] + w_offset) - 2 * x[i] * mean)/' norm/
mutant test_op kernels/cpu/cpu_ops.c 's/, far = layout == PW_ROPE_HALF ? pairs : 1/, far = layout == PW_ROPE_HALF ? d \/ 2 : 1/' rope/
mutant test_op kernels/cpu/cpu_ops.c 's/ + xa \* sine/ - xa * sine/' rope/
mutant test_op kernels/cpu/cpu_linear.c 's/for (int64_t i = 0; i < rows; i++) isa->keep(drop, pw_drop_element(drop, t0 + i, n_in, k0)/for (int64_t i = 0; i < rows; i++) isa->keep(drop, pw_drop_element(drop, i, n_in, k0)/' linear/
mutant test_gguf_model infer/model.c 's/(p->convert ? pw_pool_round/(!p->head ? pw_pool_round/'
mutant test_op kernels/cpu/cpu_linear.c 's/isa->scale(rows \* r, dxa + t0 \* r, scale);//' linear/
mutant test_op kernels/cpu/cpu_linear.c 's/n = cpu_min(NC, n_out - n0)/n = cpu_min(NC, n_out - n0 - 1)/' linear/
mutant test_op kernels/cpu/cpu_linear.c 's/memset(dxa + t0/if (t0 == 0) memset(dxa + t0/' linear/
if grep -qw avx512_bf16 /proc/cpuinfo; then # elsewhere nothing runs on that level
    mutant test_op kernels/cpu/cpu_linear16.c 's/panel16(p), y + n0, w->n_out, k > 0)/panel16(p), y + n0, w->n_out, false)/' linear/
    mutant test_op kernels/cpu/cpu_linear16.c 's/turned \* l.f32/l.f32/' linear/
    mutant test_op kernels/cpu/cpu_linear16.c 's/t = i \/ g.groups \* g.rows/t = 0 * g.rows/' 2100,24,8,4
    mutant test_op kernels/cpu/cpu_linear16.c 's/isa->scale(rows \* r, xa + t \* r, factor_of(drop));//' linear/
    mutant test_op kernels/cpu/cpu_linear16.c 's/first \* low.ld_turned + t \* p->planes, low/first * low.ld_turned, low/' linear/
    mutant test_op kernels/cpu/cpu_attn16.c 's/key0 > 0 ? key0 \/ CPU_PANEL \* CPU_PANEL/key0 > 0 ? key0/' attn/
    mutant test_op kernels/cpu/cpu_attn16.c 's/key0 + n_k - 1 + window/key0 + n_k - 2 + window/' attn/
    mutant test_op kernels/cpu/cpu_attn16.c 's/ds\[i\] \*= slope\[i\];/ds[i] += 0 * slope[i];/' attn/
    mutant test_op kernels/cpu/cpu_attn16.c 's/if (c->v_scale.data) scale_by_key/if (0) scale_by_key/' cache/
    mutant test_op kernels/cpu/cpu_attn16.c 's/panels + q.from \* CPU_PANEL \* w->planes/panels/' attn/
    mutant test_op kernels/cpu/isa_avx512_bf16.c 's/second = t + 1 < k ?/second = t + 2 < k ?/' linear/
    mutant test_op kernels/cpu/isa_avx512_bf16.c 's/_mm512_slli_epi32(high, 16)/_mm512_slli_epi32(high, 15)/' linear/
    mutant test_op_rows kernels/cpu/isa_avx512_bf16.c 's/^    PRODUCT(1, m)/    for (; i < m; i++) tile16(1, n, pairs \/ 2, a + i * lda, lda, panel, c + i * ldc, ldc, add), tile16(1, n, pairs - pairs \/ 2, a + i * lda + pairs \/ 2 * 2, lda, panel + pairs \/ 2 * 2 * WIDE, c + i * ldc, ldc, true);/'
    mutant test_run train/run.c 's/if (asked \&\& !rounds)/if (false)/'
fi
if grep -qw amx_bf16 /proc/cpuinfo; then
    mutant test_op_rows kernels/cpu/isa_amx.c 's/int p = in - 1; p >= 0/int p = in > 1 ? in - 2 : 0; p >= 0/'
    mutant test_op_rows kernels/cpu/isa_amx.c 's/LOAD_B(2);/LOAD_B(1);/'
    mutant test_op kernels/cpu/isa_amx.c 's/(rows > TILE_ROWS ? rows - TILE_ROWS : 1)/TILE_ROWS/' linear/
    mutant test_op kernels/cpu/isa_amx.c 's/from = rows + t \* ldw + p \* CPU_STEP + j/from = rows + t * ldw + j/' linear/
    mutant test_op kernels/cpu/cpu_linear16.c 's/dy + row \* p->planes, ld/dy + row, ld/' linear/
    mutant test_op kernels/cpu/cpu_linear16.c 's/l.turned + i \* l.ld_turned + t \* p->planes/l.turned + i * l.ld_turned + t/' linear/
fi
mutant test_op kernels/cpu/cpu_attn.c 's/g = h \/ (heads \/ c->k.shape\[1\])/g = h % c->k.shape[1]/' attn/
mutant test_op kernels/cpu/cpu_attn.c 's/(ds\[j\] - mean\[i\]) \* scale/(ds[j] - mean[i]) * (scale > 0)/' attn/
mutant test_op kernels/cpu/cpu_attn.c 's/- mean\[i\])/- 0 * mean[i])/' attn/
mutant test_op kernels/cpu/cpu_attn.c 's/bool packed = false;/bool packed = k0 > 0;/' attn/
mutant test_op kernels/cpu/cpu_attn.c 's/w->mean + b.q0/w->mean/' attn/
mutant test_op kernels/cpu/cpu_attn.h 's/low = attn->window > 0 ? last - attn->window : 0/low = attn->window > 0 ? last - attn->window + 1 : 0/' attn/
mutant test_op kernels/cpu/cpu_attn.c 's/sum\[i\] \*= (double)shrink;//' attn/
mutant test_op kernels/cpu/isa_body.h 's/x = vpick((other > x) | (other != other), other, x);/x = other;/' attn/
mutant test_op kernels/cpu/cpu_head.c 's/z\[target\] -= \*up;//' head/
mutant test_op kernels/cpu/cpu_head.c 's/if (best) best\[t\] = -1;/if (best) best[t] = 0;/' head/
mutant test_op kernels/cpu/cpu_head.c 's/if (target\[t\] >= 0)/if (target[t] > 0)/' head/
mutant test_op kernels/ref/ref_attn.c 's/p \* (dp - mean) \* attn->scale/p * dp * attn->scale/' attn/
mutant test_adapter_golden train/trainer.c '/pw_model_norms(t->set.model)/d'
mutant test_adapter_golden train/run_train.c '/pw_model_norms(run->model)/d'
mutant test_adapter_golden infer/block.c 's/, .dm = grads->dm\[l\]//'
mutant test_adapter_golden lora/merge.c 's/w\[x\] = ratio \* (/w[x] = (float)(ratio > 0) * (/'
mutant test_adapter_golden infer/model_adapter.c 's/        \*norm = s->value;/        *norm = *norm;/'
mutant test_adapter_golden infer/block.c 's/\.dbias = grads->dbias\[l\]/.dbias = pw_none()/'
mutant test_adapter_golden infer/model_adapter.c 's/        w->bias = s->value.data;/        w->bias = w->bias;/'
mutant test_adapter_golden lora/peft_joined.c 's/((size_t)f->half \* rows + i)/((size_t)(f->half ^ (f->halves - 1)) * rows + i)/'
mutant test_adapter_golden lora/peft_joined.c 's/both ? !within : down;/both ? within : down;/'
mutant test_adapter_golden infer/model_adapter.c 's/a ? pw_adapter_dora_expert(a) : NULL/a \&\& a->n == 0 ? pw_adapter_dora_expert(a) : NULL/'
mutant test_adapter_golden quant/source.c 's/{"down_proj", PW_EXPERT_DOWN, PW_EXPERT_PARTS}/{"down_proj", PW_EXPERT_GATE, PW_EXPERT_DOWN}/'
mutant test_lora lora/peft.c 's/(?:%s)\$"/(?:%s)"/'
mutant test_adapter_golden lora/peft.c 's/fill_rows(a, &of, to, 1, t, path)/pw_peft_widen(to.data, t, path)/'
mutant test_adapter_golden lora/merge.c 's/        to\[i\] = from\[i\];/        to[i] = to[i] + 0 * from[i];/'
mutant test_adapter_init train/trainer.c '/PW_TRY(hold_still(t)/d; s/^static int hold_still/__attribute__((unused)) static int hold_still/'
mutant test_adapter_init train/adapter_init.c 's/b\[i \* rank + half + k\] = -b/b[i * rank + half + k] = b/'
mutant test_adapter_init lora/principal.c 's/sqrt(s \/ scale)/sqrt(s + 0 * scale)/'
mutant test_op kernels/dora.c 's/dev->ops->dropout(dev, r.kept, x, drop, true, false)/dev->ops->copy(dev, r.kept, x)/' linear/dense/f32/37,520
mutant test_op kernels/dora.c 's/linear_bwd(dev, &inner, r.product, x, xa/linear_bwd(dev, \&inner, dy, x, xa/' linear/dense/f32/65,130
mutant test_op kernels/dora.c 's/dev->ops->dropout(dev, g->dx, r.part, drop, true, true)/dev->ops->axpy(dev, g->dx, r.part, 1)/' linear/dense/f32/37,520
mutant test_op kernels/cpu/cpu_dora.c 's/sum\[c\] \/ (double)divisor/sum[c] * (double)divisor/' column_dot
mutant test_op kernels/cpu/cpu_dora.c 's/(float)lora->scale \* ((const/((const/' row_norm
mutant test_op kernels/ref/ref_linear.c 's/ref_add(g->dm, n, dot \/ ref_get(w->lora->norm, n))/ref_add(g->dm, n, dot)/' linear/dense/f32/3,5
mutant test_op kernels/cuda/dora.cu 's/out\[mine\] += sum \/ norm/out[mine] += sum * norm/' column_dot
mutant test_op kernels/cuda/dora.cu 's/if (r > RANKS || k0 == 0) {/if (k0 == 0) {/' row_norm/dense/f32/2056
mutant test_op kernels/cuda/dora.cu 's/v = k + e < w.n_in ? __fmaf_rn(scale/v = true ? __fmaf_rn(scale * 0.5f/' row_norm/nf4
mutant test_op kernels/cpu/cpu_attn.h 's/((const float \*)scale.data)\[head\] : 1;/((const float *)scale.data)[head - g] : 1;/' cache/
mutant test_cache kernels/cache8.h 's/!(largest <= FLT_MAX) ? NAN : //'
mutant test_cache kernels/cuda/cache.cu 's/largest = !(a <= 3.402823466e38f) ? INFINITY : /largest = /'
mutant test_op kernels/cuda/attn.h 's/\*= scales\[8 \* i + 2 \* (lane % 4) + e % 2\]/*= scales[8 * i + 2 * (lane % 4)]/' cache/
mutant test_op kernels/cuda/attn_fwd.h 's/^        if constexpr (CODES) attn_store_codes(sk.*$//' cache/
mutant test_cache kernels/cuda/attn_decode.h 's/attn_load_codes(kc, a.k8, a.k_scale, a, p, g, k0 + t::STEP, end, lane);//'
mutant test_session infer/session.c 's/pw_dtype_bytes(m->cache_type);/pw_dtype_bytes(m->dev->act);/'
mutant test_session infer/session.c 's/const int64_t keep = pages_of(tokens);/const int64_t keep = tokens \/ PW_PAGE_ROWS;/'
mutant test_session infer/session.c 's/    PW_CHECK(pages <= s->n_free,/    PW_CHECK(pages <= s->n_free + 1,/'
mutant test_session infer/session.c 's/at \/ PW_PAGE_ROWS\] \* PW_PAGE_ROWS/(at + 1) \/ PW_PAGE_ROWS] * PW_PAGE_ROWS/'
mutant test_generate infer/generate.c 's/k->left -= r->cached;/k->left -= 16;/'
mutant test_generate infer/generate.c 's/if (has_room(m, middle, batch_tokens, n))/if (!has_room(m, middle, batch_tokens, n))/'
mutant test_pages kernels/cpu/cpu_attn.h 's/start + j \/ a->page\]/start + (j + 1) \/ a->page]/'
mutant test_pages kernels/cuda/attn.h 's/? j >> a.page_shift : j/? (j + 1) >> a.page_shift : (j + 1)/'
mutant test_op kernels/cuda/skinny.cu 's/if (WIDE \&\& KIND == DECODE_INT8) step/if (WIDE \&\& KIND == DECODE_INT8 \&\& M != 1) step/' linear/int8
mutant test_pages kernels/cuda/attn.h 's/a.pages\[(shared ? p.prefix_at : p.own_at)/a.pages[p.own_at/'
mutant test_pages kernels/cuda/attn_fwd.h 's/KB, t::THREADS, PAGED>(sv/KB, t::THREADS, PAGED \&\& HD != 96>(sv/'
mutant test_capture infer/session.c 's/^    seqs->most_keys = wanted.most_keys;$//'
mutant test_capture infer/session.c 's/a->attached == b->attached/a->used/'
mutant test_capture kernels/cuda/attn_decode.h 's/attn_most_splits(most) :/(most > 0) :/'
mutant test_choices kernels/cuda/linear.cu 's/bucket < rows \&\& bucket/bucket <= rows \&\& bucket/'
mutant test_choices kernels/cuda/linear.cu 's/fewer < rows; fewer/fewer < 0; fewer/'
mutant test_choices kernels/cuda/linear.cu 's/c->backward == backward/(c->backward == backward || true)/'
mutant test_run_products train/run_products.c 's/return run->opt.resume \&\& pw_file/return run->opt.resume \&\& !pw_file/'
mutant test_run_products train/run_products.c 's/    pw_dev_unreserve(run->opt.dev);//'
mutant test_choices kernels/choices.c 's/if (find(c, \&one)) continue;//'
mutant test_attn_choices kernels/choices.c 's/ || find_attn(c, \&one.shape)) continue/) continue/'
mutant test_attn_choices kernels/cuda/attn_library.cu 's/(!seqs->company \&\& !forced(dev)) || //'
mutant test_op kernels/cuda/attn_library.cu 's/out\[i\] = at \* q_width/out[i] = i * q_width/' attn
mutant test_op kernels/cuda/attn.h 's/if (key >= w.seen\[e \/ 2\] ||/if (key > w.seen[e \/ 2] ||/' attn/dense/f32/65,
mutant test_op kernels/cuda/attn.h 's/key < w.low\[e \/ 2\]) s/key + 1 < w.low[e \/ 2]) s/' attn/dense/f32/200,
mutant test_op kernels/cuda/attn.h 's/w.o\[i\]\[e\] \*= shrink\[e \/ 2\]/w.o[i][e] *= shrink[0]/' attn/dense/f32/130,
mutant test_op kernels/cuda/attn_fwd.h 's/last_row \/ a.share + 1;/last_row \/ a.share;/' attn/dense/f32/65,
mutant test_op kernels/cuda/attn_fwd.h 's/^        cp_async_wait<0>();$/        cp_async_wait<1>();/' attn/dense/f32/65,
mutant test_op kernels/cuda/attn_decode.h 's/cp_async_wait<1>();/cp_async_wait<2>();/' attn/dense/f32/1,3
mutant test_op kernels/cuda/attn_decode.h 's/i < split.n; i++) {/i < split.n - 1; i++) {/' attn/dense/f32/1,3
mutant test_op kernels/cuda/attn_bwd_keys.cu 's/a.window - p.back - 1;/a.window - p.back - 2;/' attn/dense/f32/200,
mutant test_op kernels/cuda/attn_bwd_keys.cu 's/first = max(0, from - p.back)/first = max(0, from + 16 - p.back)/' attn/dense/f32/200,
mutant test_op kernels/cuda/attn_bwd_keys.cu 's/chunk < a.n_seqs; chunk += t::THREADS/chunk < 1; chunk += t::THREADS/' attn/dense/f32/3,300
mutant test_op kernels/cuda/attn_bwd_keys.cu 's/min(top - shift, visit % 2 ? p.n : p.prefix_n)/min(top - shift, p.n)/' attn/dense/f32/70,2
mutant test_op kernels/cuda/attn_bwd_queries.cu 's/dp\[i\]\[e\] - delta\[h\]/dp[i][e] - 0 * delta[h]/' attn/dense/f32/5,
mutant test_attn_rows kernels/cuda/attn_decode.h 's/n \&\& tokens > ATTN_WAVE_TOKENS/n \&\& tokens > 40 * ATTN_WAVE_TOKENS/'
mutant test_attn_rows kernels/cuda/attn_bwd_keys.cu 's/ \* a.share \& ~(MB - 1);/ * a.share;/'
mutant test_op kernels/ref/ref_ops.c 's/s \* (1 + z \* (1 - s))/s * (1 + z * s)/' glu/
mutant test_op kernels/ref/ref_ops.c 's/(ref_get(w, i) + w_offset) - xi \* dot/(ref_get(w, i) + w_offset) - 0.999 * xi * dot/' norm/
mutant test_op kernels/ref/ref_ops.c 's/ref_put(inv_rms, t, inv);/ref_put(inv_rms, t, t ? inv : NAN);/' norm/
mutant test_op_rows kernels/cpu/cpu_linear.c 's/tokens <= 2 \&\& dot4_fits(w)/tokens <= 2 \&\& (dot4_fits(w) || w->type == PW_Q_NF4)/'
mutant test_op_rows kernels/cpu/cpu_attn.h 's/(seen - attn->window) \/ CPU_KEYS \* CPU_KEYS/(seen - attn->window)/'
mutant test_op_rows kernels/cpu/cpu_ops.c 's/pieces = cpu_parts(n, PIECE)/pieces = cpu_parts(n, PIECE \/ dev->threads)/; s/first = (wave + i) \* PIECE/first = (wave + i) * (PIECE \/ dev->threads)/; s/sumsq(cpu_min(PIECE, n - first)/sumsq(cpu_min(PIECE \/ dev->threads, n - first)/'
mutant test_op_codes kernels/weight.c 's/x > pw_nf4_threshold/x >= pw_nf4_threshold/'
mutant test_op_codes kernels/weight.c 's/absmax > 1e-38f ? absmax : 1e-38f/absmax/'
mutant test_op_codes kernels/cpu/isa_encode.h 's/p << 4 | p >> 32/p | p >> 28/'
mutant test_op_checks kernels/op_check.c 's/id\[i\] < limit/id[i] <= limit/'
mutant test_op_checks kernels/op_check.c 's/na > y - x : nb > x - y/na > y - x : false/'

# ---- linear layers and the loss head on cards, through simt ----
mutant test_op kernels/cuda/tile.h 's/(k_end - k0 + TILE_K - 1) \/ TILE_K/(k_end - k0) \/ TILE_K/' linear/dense/f32/65
mutant test_op kernels/cuda/tile.h 's/k + lane % 16, (wn + 16 \* j) \/ 8 + lane \/ 16/k + lane % 16, (wn + 16 * j) \/ 8 + lane \/ 8 % 2/' linear/dense/f32/20
mutant test_op kernels/cuda/tile.h 's/low_factor \* (TB ? drop.inverse : 1.0f)/low_factor/' linear/nf4/bf16/2100
mutant test_op kernels/cuda/tile.h 's/__syncthreads(); \/\* step s has landed/\/* step s has landed/' linear/nf4/bf16/130
mutant test_op kernels/cuda/linear.cu 's/p < pieces; p++/p + 1 < pieces; p++/' linear/nf4/bf16/2100
mutant test_op kernels/cuda/head.cu 's/sum_before \* shrink + sum/sum_before + sum/' head
mutant test_op kernels/cuda/head.cu 's/v == target ? 0 : e \* slope/e * slope/' head
mutant test_op kernels/cuda/head.cu 's/before += all;//' head
mutant test_cuda_linear kernels/cuda/num.h 's/b.word < a.word/b.word > a.word/'
mutant test_cuda_linear kernels/cuda/head.cu 's/target >= 0 \&\& target < words/target >= 0/'

# ---- experts ----
mutant test_op kernels/ref/ref_experts.c 's/dweights, t \* n + c) - (renormalise ? mean : 0)/dweights, t * n + c)/' route/
mutant test_op kernels/cpu/cpu_experts.c 's/scale \* expf(logit\[e\] - logit\[id\[0\]\])/scale * expf(logit[e])/' route/
mutant test_op kernels/cpu/cpu_experts.c 's|pw_drop_of_expert(drop, e, at\[e\])|pw_drop_of_expert(drop, 0, at[e])|' experts/
mutant test_op_experts kernels/cpu/cpu_experts.c 's/return a > b ||/return a >= b ||/'
mutant test_op kernels/cuda/route.cu 's/best >= 0 \&\& best < other/best >= 0 \&\& best > other/' route/
mutant test_op kernels/cuda/route.cu 's/if (renormalise \&\& !mine) continue;/if (!mine) continue;/; s/(renormalise \&\& !mine)) continue/!mine) continue/' route/
mutant test_op kernels/cuda/route.cu 's/w < warp ? found/w <= warp ? found/' mix/
mutant test_op kernels/cuda/combine.cu 's/dweights\[pair\] += dot/dweights[pair] = dot/' mix/
mutant test_op kernels/cuda/experts.cu 's/g.low_w += n \* w->lora->r;//' experts/
mutant test_op kernels/cuda/tile.h 's/(row + (TA ? 0 : row0)) \* g.ldc/row * g.ldc/' experts/
mutant test_op kernels/cuda/tile.h 's/g.b_row + row + (TA ? row0 : 0)/g.b_row + row/' experts/
race test_op kernels/cuda/route.cu 's/base += THREADS, stage ^= 1/base += THREADS/' mix/

# ---- kernels for cards, on simt; and simt itself ----
mutant test_op kernels/cuda/norm.cu 's/i = mine + HELD \* step; i < width/i = mine + HELD * step; i + 8 < width/' norm/
mutant test_op kernels/cuda/norm.cu 's/t = threadIdx.y; t < tokens/t = threadIdx.y; t + 1 < tokens/' norm/
mutant test_op kernels/cuda/num.h 's/^    __syncthreads();//' norm/
mutant test_op kernels/cuda/num.h 's/if (FAST \&\& i + 8 <= end) {/if (FAST \&\& i < end) {/' glu/
mutant test_op kernels/cuda/decode.h 's/if (left == 0) scale/if (left == 1) scale/' decode/
mutant test_op kernels/cuda/decode.h 's/(e % 2 ? 0 : 4)) \& 15/(e % 2 ? 4 : 0)) \& 15/' decode/
mutant test_op kernels/cuda/decode.h 's/block >> w.nested_shift/block >> (w.nested_shift - 1)/' decode/
mutant test_op kernels/cuda/blocks.h 's/192 + at \/ 16/192 + at \/ 32 * 2/' decode/
mutant test_op kernels/cuda/blocks.h 's/low >> 6 << 4/low >> 6 << 3/' decode/
mutant test_op kernels/cuda/rope.cu 's/head + pairs, i, pairs, b/head + d \/ 2, i, pairs, b/' rope/
mutant test_op kernels/cuda/rows.cu 's/(blockIdx.x % pieces) \* blockDim.x \* UNITS/(blockIdx.x % pieces) * blockDim.x * 3/' rows/
mutant test_op kernels/cuda/embed.cu 's/if (at < t) return;/if (at < t) break;/' embed/
mutant test_op kernels/cuda/embed.cu 's/(w, table, id, i, x)/(w, table, t, i, x)/' lookup/
mutant test_op kernels/cuda/optim.cu 's/h.rest2 \* grad \* grad/h.rest2 * grad/' adamw
mutant test_op_codes kernels/cuda/codec.cu 's/a = x > t\[7\]/a = x >= t[7]/'
mutant test_op_codes kernels/cuda/codec.cu 's/if (n % 2) word/if (n < 0) word/'
mutant test_op_codes kernels/cuda/codec.cu 's/codes\[i \/ 2\] = (uint8_t)(four_code<FP4>(x\[i\] \* inverse) << 4 |/codes[i \/ 2] = (uint8_t)(four_code<FP4>(x[i] * inverse) |/'
mutant test_op_device kernels/cuda/rope.cu 's/if (at < 0 || at >= limit)/if (at >= limit)/'
mutant test_op_device kernels/cuda/rows.cu 's/cuda_report(status, CUDA_FAULT_ROW, t,/cuda_report(status, CUDA_FAULT_ROW, 0,/'
mutant test_op_device kernels/cuda/optim.cu 's/i += (int64_t)gridDim.x \* PER_BLOCK/i += n/'
race test_op kernels/cuda/embed.cu 's/first += THREADS, stage ^= 1/first += THREADS/' embed/dense/f32/300
race test_op kernels/cuda/optim.cu 's/b += gridDim.x, stage ^= 1/b += gridDim.x/' adamw8
mutant test_simt kernels/simt/ptx.h 's/0x7fffu + (u >> 16 \& 1)/0x8000u/'
mutant test_simt kernels/simt/ptx.h 's/r + 0xfffu + (r >> 13 \& 1)/r + 0x1000u/'
mutant test_simt kernels/simt/ptx.h "s/l \/ 4 + 8 \* (e \/ 2), col/l \/ 4 + 8 * (e % 2), col/"
mutant test_simt kernels/simt/fibers.cc 's/group < f->open_group - pending/group <= f->open_group - pending/'
mutant test_simt kernels/simt/fibers.cc 's/memset(b.smem, 0xff, b.smem_used);//'
mutant test_simt kernels/simt/fibers.cc 's/g->fn != f->fn || g->line != f->line/false/'
mutant test_simt kernels/simt/memory.cc 's/p->map + p->bytes - rounded/p->map/'

mutant test_train_device train/pass.c 's/return bring_input(p, layer - 1, x.shape\[0\]);/return 0;/'
mutant test_train_device kernels/cuda/linear.cu 's/if (g->da.data) PW_PASS(low_weight/if (g->da.data \&\& w->n_in != 40) PW_PASS(low_weight/'

# ---- the block and the session ----
mutant test_block infer/block.c 's/rotate(k, dk, c->kv_heads, -1)/rotate(k, dk, c->kv_heads, 1)/'
mutant test_block infer/block.c 's/linear_back(k, PW_LIN_UP, dh, dup/linear_back(k, PW_LIN_UP, dh, dgate/'
mutant test_session infer/session.c 's/pw_rope_rows(&s->rope, before, feeds/pw_rope_rows(\&s->rope, s->timelines[feeds[i].seq].length, feeds/'
mutant test_block infer/block.c 's/if (!keeps \&\& c->post_norms)/if (false)/'
mutant test_block infer/block.c 's/inv = mine(k, s->inv_mlp)/inv = first(k, s->inv_mlp)/'
mutant test_objective train/preference.c 's/prompt + answer < max_length/prompt > max_length/'
mutant test_train train/pass.c 's/again \* s->tokens, block.ranks\[PW_LIN_DOWN\]/again * s->tokens * (k->pool ? 1 : 2), block.ranks[PW_LIN_DOWN]/'
mutant test_train train/pass.c 's/PW_PASS(keep_xa(p, i, saved->xa, b->tokens, true));/PW_PASS(0);/'
mutant test_session infer/session.c 's/s->kv_len\[i\] = (int32_t)(t->length + feeds\[i\].n)/s->kv_len[i] = (int32_t)feeds[i].n/'
mutant test_session infer/rope.c 's/return freq \/ c->rope_factor;/return freq;/'
mutant test_session infer/block.c 's/layout = k->c->rope/layout = !k->c->rope/'

mutant test_block infer/experts.c 's/linear_back(\&k, PW_EXPERT_UP, dxs, dup/linear_back(\&k, PW_EXPERT_UP, dxs, dgate/'
mutant test_block infer/experts.c 's/PW_PASS(pw_fill(k.dev, dxs, 0));//'
mutant test_families infer/block.c 's/pw_expert_rows(c, k->tokens) \* c->expert_ffn/k->tokens * c->expert_ffn/'
mutant test_families infer/block.c 's/norm_back(k, n, heads_of(k, into), grads, heads_of(k, dq)/norm_back(k, n, heads_of(k, into), grads, heads_of(k, dq.data ? x : dq)/'
mutant test_families infer/block.c 's/norm_back(k, n, into, grads, dx, x, inv)/norm_back(k, n, into, grads, dx, x.data ? dx : x, inv)/'
mutant test_families infer/block.c 's/pw_columns(dy, at, parts/pw_columns(dy, 0, parts/'
mutant test_block infer/rope.c 's/(double)length > c->rope_original_context/(double)length >= c->rope_original_context/'
mutant test_block infer/rope.c 's/set_rows(s, 0) + r->taken - first/set_rows(s, 0) - first/'
mutant test_block infer/rope.c 's/c->rope_factor \* L \/ c->rope_original_context - (c->rope_factor - 1)/c->rope_factor * L \/ c->rope_original_context - c->rope_factor/'
mutant test_session infer/session.c 's/.longest = rows, .tokens = tokens/.longest = rows + (1 << 20), .tokens = tokens/'
mutant test_families infer/rope.c 's/dims \/ (dims - 2))/dims \/ (dims - 1))/'
mutant test_generate infer/generate.c 's/return pw_session_stretch(k->s, r->seq, r->n);/(void)pw_session_rewind(k->s, r->seq, r->fed = 0);/'
mutant test_generate infer/generate.c '/no_cache) {/,/}/s/PW_PASS(pw_session_expect(k->s, r->seq, r->n));//'
mutant test_checkpoint data/model_config.c 's/PW_CHECK(tied == c->tied || /PW_CHECK(true || /'
mutant test_checkpoint data/checkpoint_hf.c 's/{"language_model.lm_head.", "lm_head."}/{"language_model.lm_head.", "model.lm_head."}/'
mutant test_adapter_golden lora/peft_text.c 's/a->config.of_text = true;/a->config.of_text = false;/'
mutant test_adapter_golden lora/peft_text.c 's/alike = alike \&\& a->n % of_first == 0;/alike = of_first > 0;/'
mutant test_adapter_golden lora/peft.c 's/if (c->of_text)/if (c->of_text \&\& false)/'
mutant test_block infer/block.c 's/k->b, k->index, l, k->at, /k->b, k->index, l, 0, /'
mutant test_budget train/fits.c 's/r->memory = "auto";//'
mutant test_fit train/fit.c 's/|| cost < s->cost)/|| cost > s->cost)/'
mutant test_fit train/fit.c 's/high = now.kept - 1;/high = now.kept - 2;/'
mutant test_fit infer/block.c 's/: PW_MLP_ROWS;/: shape->tokens;/'
mutant test_plan_bytes infer/session.c 's/ + adapter_bytes(m, batch_tokens, rank_of(m));/;/'
mutant test_adapter_file infer/memory_limit.c 's/{"adapters", m->adapter_bytes}/{"adapters", 0}/'
mutant test_adapter_file infer/memory_limit.c 's/file", stored}/file", stored \/ 2}/'
mutant test_adapter_file lora/adapter_file.c 's/    z->made += bytes/    z->made += bytes \/ 2/'
mutant test_budget infer/memory_limit.c 's/= m->pool.bytes + pw_session_bytes/= pw_session_bytes/'
mutant test_budget infer/model.c 's|^    if (gone)$|    if (!gone)|'
mutant test_families infer/rope.c 's/freq \/ c->rope_factor \* slow + freq/freq * slow + freq/'
mutant test_families infer/session.c 's/factors > length ? factors : length, s->pos/factors < 0 ? factors : length, s->pos/'
mutant test_families data/rope_config.c 's/c->rope_attention = yarn_scale(c->rope_factor, m)/c->rope_attention = yarn_scale(c->rope_factor, 1)/'
mutant test_families data/model_config.c 's/c->embed_scale = sqrt(c->hidden);//'
mutant test_gguf_families data/gguf_model.c 's/x\[i\] -= 1;//'
mutant test_gguf_families quant/gguf_file.c 's/x\[i\] += (float)it->offset/x[i] += 0/'
mutant test_jinja data/jinja_slice.c 's/if (wants_context(n->name))/if (!wants_context(n->name))/'
mutant test_tokenizer data/utf8.c 's/        b = 0x301;/        a = 0x301;/'
mutant test_tokenizer data/tok_unigram.c 's/(float)n \* user_bonus - user_bonus/(float)n * user_bonus/'
mutant test_gguf_experts quant/gguf_file.c 's/open_expert(j, it->layer, n, it->part/open_expert(j, it->layer, n * (n > 1), it->part/'
mutant test_gguf_experts quant/source.c 's/{"up_proj.weight", PW_EXPERT_UP, PW_EXPERT_DOWN}/{"up_proj.weight", PW_EXPERT_GATE, PW_EXPERT_UP}/'
mutant test_gguf_experts lora/gguf_lora.c 's/from = slice \* n;/from = slice * 0 * n;/'
mutant test_gguf_experts lora/gguf_lora.c 's/PW_PASS(nth_module(w, i, e, &m));$/PW_PASS(nth_module(w, i, n - 1 - e, \&m));/'
mutant test_gguf_experts data/gguf_model_write.c 's/PW_CHECK(!c->experts || c->experts_renormalise/PW_CHECK(true/'
mutant test_gguf_families data/gguf_model.c 's/(i + 1) % period == 0)/i % period == 0)/'
mutant test_gguf_families data/gguf_arch.c 's/{"ffn_norm", "pre_feedforward_layernorm"}, {"post_ffw_norm", "post_feedforward_layernorm"}/{"ffn_norm", "post_feedforward_layernorm"}, {"post_ffw_norm", "pre_feedforward_layernorm"}/'
mutant test_gguf_families data/gguf_arch.c 's/c->layers == a->scale_layers ?/c->layers > a->scale_layers ?/'
mutant test_gguf_families lora/gguf_lora.c 's/PW_PASS(module_name(a, arch, g/PW_PASS(module_name(a, arch[0] ? "llama" : arch, g/'
mutant test_gguf_families infer/block.c 's/PW_LIN_GATE_UP, (struct pw_tensor\[\]){gate, up}/PW_LIN_GATE_UP, (struct pw_tensor[]){up, gate}/'
mutant test_gguf_families data/gguf_model.c 's/long_factors(k, c, factors_long, c->rope_long)/long_factors(k, c, factors_short, c->rope_long)/'
mutant test_gguf_families data/gguf_model_write.c 's/(which ? c->rope_long : c->rope_short)/(which ? c->rope_short : c->rope_long)/'
mutant test_gguf_families data/gguf_model_write.c 's/\&\& period_of(a, c) != a->period)/\&\& false)/'
mutant test_gguf_model data/gguf_model.c 's/c->rope_attention = pw_gguf_yarn_attention(c->rope_factor);//'
mutant test_families infer/experts.c 's/r.logits, k.c->experts_renormalise), "layer %d: router"/r.logits, true), "layer %d: router"/'
mutant test_families data/checkpoint_experts.c 's/p == PW_EXPERT_UP ? n_out : 0/p == PW_EXPERT_GATE ? n_out : 0/'
mutant test_families data/model_config_experts.c 's/{"w1", "w3", "w2"}/{"w3", "w1", "w2"}/'

# ---- training: against PyTorch, the curves, resuming ----
mutant test_train_golden train/trainer.c 's/r->clip > 0 \&\& report/0 \&\& report/'
mutant test_train_golden train/trainer.c 's/.step = t->step + 1,/.step = t->step + 2,/'
mutant test_train_golden train/trainer.c 's/.weight_decay = r->weight_decay/.weight_decay = 0/'
mutant test_train_golden train/trainer.c 's/.dloss = 1.0 \/ number/.dloss = 1.5 \/ number/'
mutant test_train_golden train/schedule.c 's/(double)i \/ (double)w/(double)(i + 1) \/ (double)w/'
mutant test_train_golden train/optim.c 's/s->m, h->beta1/s->m, 0.5 * h->beta1/'
mutant test_curves train/tfevents.c 's/(crc >> 15)/(crc >> 16)/'
mutant test_curves train/report_html.c 's/y > high/false/'
mutant test_run train/run_train.c 's/run->trainer.at = k->state.pass;//'
mutant test_run train/run.c 's/if (!d->trained\[i\])/if (0)/'
mutant test_run train/run_train.c 's/k->state.best_loss = s.best_loss;/k->state.best_loss = 0;/'
mutant test_run train/run_train.c 's/k->resume_from\[0\] ? k->state.log_bytes : 0/0/'
mutant test_train_optim train/optim.c 's/    PW_PASS(pw_dev_wait(o->dev, lane));//'
mutant test_train_optim train/optim.c 's/p->at \/ parts\[i\].per, (p->n/p->at, (p->n/'
mutant test_train_optim train/optim.c 's/lane = (lane + 1) % PW_INPUT_LANES, now = next/now = next/'
mutant test_run train/run_train.c 's/if (k->t->torn)$/if (0)/'
mutant test_run train/trainer.c 's/gradients ? s->grad : s->value/gradients ? s->value : s->value/'
mutant test_ranks train/ranks.c 's/for (size_t k = 1; k < size; k++)/for (size_t k = 1; k + 1 < size; k++)/'
mutant test_ranks train/ranks.c 's/n - next < chunk ? n - next : chunk/n - next < chunk ? n - next - 1 : chunk/'
mutant test_ranks train/ranks.c 's/b == PW_E_INTERRUPTED \&\& a != PW_E_INTERRUPTED/a == PW_E_INTERRUPTED/'
mutant test_ranks train/trainer.c 's/for (int64_t i = t->at; i < mine; i++)/for (int64_t i = mine; i < mine; i++)/'
mutant test_ranks train/trainer.c 's/t->losses\[i - t->at\] = loss/t->losses[i - t->at] = i == mine ? loss : 0/'
mutant test_ranks train/trainer.c 's/(double)(plan->pass_start\[last\] - plan->pass_start\[first\]) : 0/(double)(plan->pass_start[end] - plan->pass_start[mine]) : 0/'
mutant test_ranks train/ranks_devices.c 's/if (pw_ranks_beside(r, i, k)/if (k > 0 \&\& pw_ranks_beside(r, i, k)/'
mutant test_ranks train/ranks_devices.c 's/pw_ranks_agree(r, r->warned ? 0 : rc)/pw_ranks_agree(r, rc)/'
mutant test_ranks kernels/cuda/nccl.cu 's/    return settle(dev, "summing", true, w);/    return settle(dev, "summing", false, w);/'
mutant test_ranks train/run_train.c 's/strcmp(sums, now->sums) == 0/true/'
mutant test_ranks train/resume.c 's/averages ? PARTS : 1/averages ? 1 : 1/'
mutant test_ranks train/run_train.c 's/    then.accumulate \*= ranks;//'
mutant test_budget train/trainer.c 's/"gradients", region/"gradients", region \/ 64/'

# ---- experts in one launch ----
mutant test_op_experts kernels/cuda/experts.cu 's/(t - before\[low\]) \* height/t * height/'
mutant test_op_experts kernels/cuda/experts.cu 's/first < all; first += GROUP/first < GROUP; first += GROUP/'
mutant test_op kernels/cuda/tile.h 's/(uint32_t)(PW_EXPERT_STREAM >> 32) \* (uint32_t)e/0/' experts/
mutant test_op kernels/cuda/tile.h 's/if (g.group.operand == EXPERT_B) alpha \*= entry.scale;/alpha = alpha * 1;/' experts/
mutant test_op kernels/cuda/skinny.cu 's/        scale_b = entry.scale;//' experts/
mutant test_op_experts kernels/cuda/skinny.cu 's/rows = min(rows, to - (int)y_row);//'

# ---- drawing tokens ----
mutant test_sample kernels/cuda/sample.cu 's/(nth + 1) \* weight/nth * weight/'
mutant test_sample kernels/cuda/sample.cu 's/sample_share(total, d.top_p) - 1/sample_share(total, d.top_p)/'
mutant test_sample kernels/cuda/sample.cu 's/at + __popc(all \& ((1u << lane) - 1)) == nth/nth == at/'
mutant test_sample kernels/sample.c 's/mine >> known != order/mine >> known > order/'
mutant test_sample kernels/sample.h 's/u == 0x80000000u ? 0x7fffffffu : //'
mutant test_sample kernels/ref/ref_sample.c 's/weight < least/weight <= least/'
mutant test_capture infer/session.c 's/(const struct pw_draw \*)draws->device + at/(const struct pw_draw *)draws->device/'
mutant test_capture infer/session.c 's/ \&\& a->draws == b->draws//'
race test_sample kernels/cuda/sample.cu 's/^    __syncthreads(); \/\* bins are filled \*\///'

# ---- the coin vote ----
mutant test_vote eval/ledger.c 's/pw_sha256_add(&h, previous, 64);/pw_sha256_add(\&h, previous, 63);/'
mutant test_vote eval/ledger.c 's/PW_CHECK(memcmp(c->seal_root, c->root, 64) == 0/PW_CHECK(true/'
mutant test_vote eval/tally.c 's/spent > c->budget)/spent > c->budget + 1)/'
mutant test_vote eval/ballots.c 's/coins >= 0 || c->negative/true || c->negative/'
mutant test_vote eval/ballot_import.c 's/PW_PASS_OUT(reject(x, csv.row_line, got, NULL));/PW_PASS_OUT(got);/'
mutant test_vote_faults eval/ballot_import.c 's/    x->report->accepted++;/    x->report->accepted++; if (pw_ledger_commit(x->l) < 0 || pw_ledger_begin(x->l) < 0) return PW_E_IO;/'
mutant test_vote_faults eval/ledger.c 's/"BEGIN IMMEDIATE"/"BEGIN DEFERRED"/'
mutant test_vote_faults eval/ledger.c 's/    int rc = read_head(l);/    int rc = 0;/'
mutant test_vote_faults eval/ledger.c 's/    if (starved \&\& (!text/    if (false \&\& (!text/'
mutant test_vote_faults eval/ledger.c 's/    l->count = l->count_before;//'
mutant test_vote_faults eval/ledger.c 's/pw_limit_take((size_t)n) ? plain.xMalloc(n) : NULL/plain.xMalloc(n)/'
mutant test_vote_faults eval/tally.c 's/PW_PASS(grow((void \*\*)&t->spent/(void)(grow((void **)\&t->spent/'
mutant test_vote_faults eval/votestat.c 's/r->n_replicates, 0.025)/r->n_replicates, 0.15)/'
mutant test_vote_faults eval/rank_coins.c 's/j < s->first\[v + 1\]; j++/j < s->first[v] + 1; j++/'
mutant test_vote_faults eval/rank_coins.c 's/floor(gap + 1e-9) + 1/floor(gap + 1e-9)/'

# ---- locks and limits ----
mutant test_base_file base/lock.c 's/LOCK_EX | LOCK_NB) != 0/LOCK_EX | LOCK_NB) > 0/'
mutant test_base_file base/lock.c 's/if (still_there(l->fd, l->path)) unlink/unlink/'
mutant test_session base/limit.c 's/sum > limit/false/'
mutant test_adapter_file lora/gguf_lora.c 's/(w->a->paired > 0) != w->permutes ? w->model->head_dim : 0/0/'
mutant test_adapter_file lora/gguf_lora.c 's/if (half && fabs(factor - 1) > 1e-7)/if (false)/'
mutant test_adapter_file lora/gguf_lora.c 's/alpha \/ (double)at\[0\] : 1/alpha \/ (double)at[0] : 0.5/'
mutant test_adapter_file lora/gguf_lora.c 's/PW_PASS(pw_pairs_build(a, pairs, n, model, permutes/PW_PASS(pw_pairs_build(a, pairs, n, model, false/'
mutant test_adapter_file quant/gguf_file.c 's/&& !s->heads && !edited)/\&\& !s->heads \&\& (edited || true))/'
mutant test_adapter_file quant/gguf_file.c 's/if (it->edited)$/if (it->edited \&\& first > 0)/'
mutant test_adapter_file lora/merge.c 's/PW_CHECK(m->result->max_change > 0,/PW_CHECK(true,/'
mutant test_bnb_folders quant/remake.c 's/pw_json_str(w, NULL, "gate");//'
mutant test_bnb_folders quant/remake.c 's/(j->how->to.experts_stored \&\& /(false \&\& /'
mutant test_bnb_folders data/bnb.c 's/out->nested_offset = (float)st.offset/out->nested_offset = 0/'
mutant test_bnb_folders data/bnb.c 's/w->t.bytes - packed < item/w->t.bytes == packed \&\& item == 1/'
mutant test_go_template data/go_template.c 's/if (!good) {/if (false) {/'
mutant test_go_template data/go_template.c 's/    return true;/    return false;/'
mutant test_go_template data/go_template.c 's/eq $i 1/eq $i 0/'
mutant test_gguf_model data/gguf_split.c 's/no == i \&\& parts == count/parts == count/'
mutant test_gguf_model data/gguf_split.c 's/return unique(g);/return 0 * unique(g);/'
mutant test_adapter_file lora/mlx.c 's/to\[k \* rows + i\] = x/to[i * columns + k] = x/'
mutant test_adapter_file lora/mlx.c 's/s->scale \* alpha \/ (double)s->rank/s->scale/'
mutant test_verify infer/verify.c 's/d->prompt != prompt/d->prompt < 0/'
mutant test_verify infer/verify.c 's/to->kept_side ? now : kept, to->kept_side ? kept : now/kept, now/'
mutant test_verify infer/verify.c 's/if (at >= start)/if (true)/'
mutant test_verify infer/verify.c 's/w->kl += kl;/w->kl += fabs(most);/'
mutant test_op_codes kernels/cpu/isa_encode.h 's/threshold + 1, n)) & 2/threshold + 2, n)) \& 2/'
mutant test_quant quant/dynamic_map.c 's/middle\[low + step - 1\]/middle[low + step \/ 2]/'
mutant test_base_file base/hash.c 's/state\[k\];/state[0];/'
mutant test_quant quant/quant.c 's/i \* step, least/i * step + (i > 0), least/'
mutant test_quant_device quant/stage.c 's/(size_t)(first \* w->n_in) \* size, bytes/(size_t)first * size, bytes/'
mutant test_quant_device quant/stage.c 's/\/ unit \* unit;/\/ unit * unit + 1;/'
mutant test_quant_device quant/stage.c 's/(size_t)outer \* sizeof(float)));/(size_t)(outer \/ 2) * sizeof(float)));/'
mutant test_quant_limit quant/source.c 's/if (stored + made > k->stored + k->made) {/if (k->stored + k->made > stored + made) {/'
mutant test_quant_limit quant/remake.c 's/pw_making_add(&j->making, j->c, s, bytes + 2/pw_making_add(\&j->making, j->c, s, 2/'
mutant test_quant_limit quant/source.c 's/    pw_checkpoint_forget(c, w->data, pw_weight_data_bytes(w));//'
mutant test_quant_limit base/limit.c 's/"--memory %zu is the least that would do%s%s", sum,/"--memory %zu is the least that would do%s%s", sum - 1,/'
mutant test_stream infer/stream.c 's/    PW_PASS(pw_dev_wait(s->dev, lane_of(s, layer)));/    PW_CHECK(lane_of(s, layer) >= 0, PW_E_FAIL, "never");/'
mutant test_stream infer/stream.c 's/if (s->held\[k\] == layer)/if (s->held[k] >= 0)/'
mutant test_train_experts infer/stream.c 's/if (s->held\[k\] == layer)/if (s->held[k] >= 0)/'
mutant test_stream train/pass.c 's/        PW_PASS(pw_dev_wait(p->m->dev, layer % PW_INPUT_LANES));/        PW_PASS(0);/'
mutant test_dataset data/dataset.c 's/            row = line;/            (void)line;/; s/            text = end + 2;/            (void)end;/'
mutant test_train train/pass.c 's/(float)((double)batch->weight\[t\] \* o->dloss)/(float)o->dloss/'
mutant test_dataset data/forms_chat.c 's/m->spans.weight\[at\]/1/'
mutant test_base_file base/outfile.c 's/if (old \&\& lstat(target/if (!old \&\& lstat(target/'
mutant test_run train/run_train.c 's/best_loss - k->r->min_delta/best_loss/'
mutant test_adapter_init train/loftq.c 's/if (round > 1)/if (round > 2)/'
mutant test_adapter_init lora/principal.c 's/round < rounds; round++/round < rounds \&\& round < 1; round++/'
mutant test_train train/trainer.c 's/row += t->plan->pass_tokens\[i\];/row += 0;/; s/row += t->plan->pass_tokens\[i++\]/i++/'
mutant test_op kernels/cuda/philox.h 's/    i += d.first;//' dropout
mutant test_op kernels/ref/ref_ops.c 's/draw.first + (uint64_t)i;/(uint64_t)i;/' noise
mutant test_faults kernels/cuda/plugin.cu 's/    if (e != 0) return lost(dev, pw_error(e == RT_NO_MEMORY/    if (e == 1) return lost(dev, pw_error(e == RT_NO_MEMORY/'
mutant test_faults kernels/cuda/plugin.cu 's/impl->capturing || !rt_lost(impl->stream)/impl->capturing || true/'
mutant test_faults train/resume.c 's/PW_CHECK(isfinite(x\[i\])/PW_CHECK(true || isfinite(x[i])/'
mutant test_faults train/trainer.c 's/        t->torn = true;/        t->torn = false;/'
mutant test_run train/run_train.c 's/(!k->r->load_best || /(true || /'
mutant test_adapter_init train/begin.c 's/return r->init_from ? pw_run_adapter_from(run, r->init_from) : 0;/return 0;/'
mutant test_adapter_init train/begin.c 's/^    run->base = opt->base;/    run->base = run->opt.recipe->model;/'
mutant test_train_experts infer/experts.c 's/drop.rows = drop.p > 0 ? r->tokens.data : NULL;/drop.rows = drop.p > 1 ? r->tokens.data : NULL;/'
mutant test_op kernels/cuda/tile.h 's/__ldg(drop.rows + row0 + row) : g.drop_row + row/__ldg(drop.rows + row) : g.drop_row + row/' experts
mutant test_ranks train/ranks_devices.c 's/    if (wish)  /    if (false)  /'
mutant test_ranks train/run_train.c 's/.sums = pw_ranks_sums(run->opt.ranks)/.sums = "host"/'
