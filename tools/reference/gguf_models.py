#!/usr/bin/env python3
"""Makes tests/fixtures/gguf/*.gguf: tiny random models and llama.cpp's logits for them. tests/test_gguf_model.c compares.

Needs: pip install gguf==0.19.0 numpy llama-cpp-python==0.3.36.
  llama.gguf   all nine block types, grouped heads, an untied head, llama3 frequencies (rope_freqs.weight)
  qwen2.gguf   biases on q, k, v, rows in the order of Hugging Face, the head tied to an embedding in blocks, Q8_0 and F16
  mixtral.gguf, qwen3moe.gguf   experts
  qwen3.gguf   norms of heads, heads that are wider than hidden / heads, YaRN
  NAME.logits.gguf   "ids" and "logits" (tokens, vocabulary)
llama.cpp multiplies block types by activations that it rounds to 8 bits. Its logits are therefore taken from the same file with every matrix
widened to f32 (by the gguf package) and an f32 key/value cache: then only the order of f32 sums differs.
"""
import os
import sys
import tempfile

import numpy as np
import llama_cpp
from gguf import GGMLQuantizationType as T, GGUFReader, GGUFWriter, RopeScalingType
from gguf.quants import dequantize

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from gguf_blocks import llama_quantise

FOLDER = "tests/fixtures/gguf"


def config(w, arch, layers, hidden, ffn, heads, kv_heads, context, vocab, theta, experts=0, chosen=0, head_dim=0, yarn=None):
    w.add_block_count(layers)
    w.add_context_length(context)
    w.add_embedding_length(hidden)
    w.add_feed_forward_length(ffn)
    w.add_head_count(heads)
    w.add_head_count_kv(kv_heads)
    w.add_layer_norm_rms_eps(1e-5)
    w.add_rope_freq_base(theta)
    w.add_rope_dimension_count(head_dim or hidden // heads)
    if head_dim:
        w.add_key_length(head_dim)
        w.add_value_length(head_dim)
    if experts:
        w.add_expert_count(experts)
        w.add_expert_used_count(chosen)
    if yarn:
        w.add_rope_scaling_type(RopeScalingType.YARN)
        w.add_rope_scaling_factor(yarn[0])
        w.add_rope_scaling_orig_ctx_len(yarn[1])
    if arch == "qwen3moe":
        w.add_expert_feed_forward_length(ffn)
    w.add_vocab_size(vocab)
    w.add_tokenizer_model("none")


def tensors(rng, layers, hidden, ffn, kv, vocab, tied, biases, types, q=0, norms=0):
    """Names, values and types; types is asked in turn for each matrix."""
    def matrix(n_out, n_in):
        return rng.normal(0, 1.2 / np.sqrt(n_in), (n_out, n_in)).astype(np.float32)

    def norm(n=hidden):
        return (1 + rng.normal(0, 0.1, n)).astype(np.float32)

    q = q or hidden
    out = [("token_embd.weight", matrix(vocab, hidden) * 4, types()), ("output_norm.weight", norm(), None)]
    if not tied:
        out.append(("output.weight", matrix(vocab, hidden) * 3, types()))
    for i in range(layers):
        b = "blk.%d." % i
        out += [(b + "attn_norm.weight", norm(), None), (b + "ffn_norm.weight", norm(), None)]
        if norms:
            out += [(b + "attn_q_norm.weight", norm(norms), None), (b + "attn_k_norm.weight", norm(norms), None)]
        for name, n_out, n_in in [("attn_q", q, hidden), ("attn_k", kv, hidden), ("attn_v", kv, hidden), ("attn_output", hidden, q),
                                  ("ffn_gate", ffn, hidden), ("ffn_up", ffn, hidden), ("ffn_down", hidden, ffn)]:
            out.append((b + name + ".weight", matrix(n_out, n_in), types()))
            if biases and name in ("attn_q", "attn_k", "attn_v"):
                out.append((b + name + ".bias", rng.normal(0, 0.3, n_out).astype(np.float32), None))
    return out


def with_experts(rng, layers, hidden, ffn, q, kv, vocab, experts, norms, types):
    def matrix(*shape):
        return rng.normal(0, 1.2 / np.sqrt(shape[-1]), shape).astype(np.float32)

    def norm(n):
        return (1 + rng.normal(0, 0.1, n)).astype(np.float32)

    out = [("token_embd.weight", matrix(vocab, hidden) * 4, T.F32), ("output_norm.weight", norm(hidden), None), ("output.weight", matrix(vocab, hidden) * 3, types())]
    for i in range(layers):
        b = "blk.%d." % i
        out += [(b + "attn_norm.weight", norm(hidden), None), (b + "ffn_norm.weight", norm(hidden), None), (b + "ffn_gate_inp.weight", matrix(experts, hidden), None)]
        if norms:
            out += [(b + "attn_q_norm.weight", norm(norms), None), (b + "attn_k_norm.weight", norm(norms), None)]
        for name, *shape in [("attn_q", q, hidden), ("attn_k", kv, hidden), ("attn_v", kv, hidden), ("attn_output", hidden, q), ("ffn_gate_exps", experts, ffn, hidden),
                             ("ffn_up_exps", experts, ffn, hidden), ("ffn_down_exps", experts, hidden, ffn)]:
            out.append((b + name + ".weight", matrix(*shape), types()))
    return out


def stored(x, q):
    if q is None or q == T.F32:
        return x, None
    if q == T.F16:
        return x.astype(np.float16), None
    if x.ndim == 3:
        return np.stack([llama_quantise(m, q) for m in x]), q
    return llama_quantise(x, q), q


def write(path, arch, keys, list_):
    w = GGUFWriter(path, arch)
    config(w, arch, **keys)
    for name, data, q in list_:
        w.add_tensor(name, data, raw_dtype=q)
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()


def make(name, arch, keys, list_, ids):
    path = "%s/%s.gguf" % (FOLDER, name)
    kept = [(n,) + stored(x, q) for n, x, q in list_]
    write(path, arch, keys, kept)
    wide = [(n, dequantize(d, q) if q is not None else d.astype(np.float32), None) for n, d, q in kept]
    with tempfile.TemporaryDirectory() as folder:
        write(folder + "/wide.gguf", arch, keys, wide)
        m = llama_cpp.Llama(folder + "/wide.gguf", n_ctx=64, logits_all=True, verbose=False, n_threads=1, n_gpu_layers=0, type_k=0, type_v=0, flash_attn=False)
        m.eval(list(ids))
        logits = np.array(m.scores[:len(ids)], dtype=np.float32)
        # the file itself, as llama.cpp computes it (8-bit activations): how far from the above, for the record
        m = llama_cpp.Llama(path, n_ctx=64, logits_all=True, verbose=False, n_threads=1, n_gpu_layers=0, type_k=0, type_v=0, flash_attn=False)
        m.eval(list(ids))
        own = np.array(m.scores[:len(ids)], dtype=np.float32)
    print("%s: logits up to %.2f; llama.cpp on the blocks themselves differs by up to %.3g" % (name, np.abs(logits).max(), np.abs(own - logits).max()))
    w = GGUFWriter("%s/%s.logits.gguf" % (FOLDER, name), "test")
    w.add_array("ids", [int(i) for i in ids])
    w.add_tensor("logits", logits)
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()


def llama3_factors(dim, theta, factor, low, high, original):
    freq = theta ** (-np.arange(0, dim, 2) / dim)
    turns = original * freq / (2 * np.pi)
    keep = np.clip((turns - low) / (high - low), 0, 1)
    return (1 / (keep + (1 - keep) / factor)).astype(np.float32)


def main():
    os.makedirs(FOLDER, exist_ok=True)
    rng = np.random.default_rng(11)
    turn = iter([T.Q4_K, T.Q6_K, T.Q4_K, T.Q5_K, T.Q6_K, T.Q8_0, T.Q4_0, T.Q5_0, T.Q5_1, T.Q4_1, T.IQ4_NL, T.Q8_0, T.Q4_K, T.Q6_K, T.Q5_K, T.Q4_0])
    keys = dict(layers=2, hidden=256, ffn=256, heads=8, kv_heads=2, context=64, vocab=80, theta=500000.0)
    list_ = tensors(rng, 2, 256, 256, 64, 80, False, False, lambda: next(turn))
    list_.append(("rope_freqs.weight", llama3_factors(32, 500000.0, 8.0, 1.0, 4.0, 8192), None))
    make("llama", "llama", keys, list_, rng.integers(0, 80, 40))
    turn2 = iter([T.Q8_0, T.F16, T.Q8_0, T.F32, T.Q8_0, T.Q8_0, T.F16, T.Q4_0])
    keys = dict(layers=1, hidden=64, ffn=96, heads=4, kv_heads=2, context=64, vocab=70, theta=10000.0)
    make("qwen2", "qwen2", keys, tensors(rng, 1, 64, 96, 32, 70, True, True, lambda: next(turn2)), rng.integers(0, 70, 40))
    turn3 = iter([T.Q8_0, T.Q8_0, T.F16, T.Q4_0, T.Q8_0, T.Q8_0, T.Q4_0, T.Q5_0])
    keys = dict(layers=1, hidden=64, ffn=96, heads=4, kv_heads=2, context=64, vocab=70, theta=10000.0, experts=4, chosen=2)
    make("mixtral", "llama", keys, with_experts(rng, 1, 64, 96, 64, 32, 70, 4, 0, lambda: next(turn3)), rng.integers(0, 70, 40))
    turn4 = iter([T.Q8_0, T.Q8_0, T.Q8_0, T.Q4_1, T.F16, T.Q4_0, T.Q8_0, T.F32])
    keys = dict(layers=1, hidden=64, ffn=32, heads=4, kv_heads=2, context=64, vocab=70, theta=10000.0, experts=6, chosen=3, head_dim=32)
    make("qwen3moe", "qwen3moe", keys, with_experts(rng, 1, 64, 32, 128, 64, 70, 6, 32, lambda: next(turn4)), rng.integers(0, 70, 40))
    turn5 = iter([T.F16, T.Q8_0, T.Q8_0, T.Q4_1, T.F16, T.Q8_0, T.Q8_0, T.F32])
    keys = dict(layers=1, hidden=64, ffn=96, heads=4, kv_heads=2, context=64, vocab=70, theta=10000.0, head_dim=32, yarn=(4.0, 16))
    make("qwen3", "qwen3", keys, tensors(rng, 1, 64, 96, 64, 70, True, False, lambda: next(turn5), 128, 32), rng.integers(0, 70, 40))


if __name__ == "__main__":
    main()
