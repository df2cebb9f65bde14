#!/usr/bin/env python3
"""Makes tests/fixtures/gguf/lora: one adapter as a PEFT folder and as a GGUF file, and llama.cpp's logits with it. tests/test_adapter_file.c compares.

Needs: pip install gguf==0.19.0 numpy safetensors llama-cpp-python==0.3.36. Run from the repository; the base is tests/fixtures/gguf/llama.gguf.
  peft/            rsLoRA, r 4, a rank_pattern and an alpha_pattern, q, k and down of both layers (bf16-exact values, stored as F32)
  lora.gguf        the same, written with the gguf package alone: rows of B of q and k permuted, scales multiplied into B
  mlx/             the same again in the form of mlx-lm, but with one rank and one scale (its config has no others)
  logits.gguf      "ids"; "base", "lora" and "mlx" (tokens, vocabulary), from llama.cpp on the base widened to f32
"""
import json
import os
import tempfile

import llama_cpp
import numpy as np
from gguf import GGMLQuantizationType as T, GGUFReader, GGUFWriter
from gguf.quants import dequantize
from safetensors.numpy import save_file

BASE, OUT = "tests/fixtures/gguf/llama.gguf", "tests/fixtures/gguf/lora"
HEADS, KV, DIM = 8, 2, 32
SHAPES = {"self_attn.q_proj": (256, 256, "attn_q"), "self_attn.k_proj": (64, 256, "attn_k"), "mlp.down_proj": (256, 256, "ffn_down")}
R, ALPHA = 4, 6
RANKS, ALPHAS = {"layers.1.self_attn.q_proj": 2}, {"down_proj": 3.5}


def finish(w):
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()


def bf16(x):
    return (x.astype(np.float32).view(np.uint32) & np.uint32(0xFFFF0000)).view(np.float32)


def permute(b, heads):
    """Half-split to interleaved pairs, as llama.cpp's converter does with the weights themselves."""
    return b.reshape(heads, 2, DIM // 2, -1).swapaxes(1, 2).reshape(b.shape)


def widen(path, base=BASE, arch="llama"):
    """The base with every matrix in f32, so that llama.cpp computes in f32."""
    r = GGUFReader(base)
    w = GGUFWriter(path, arch)
    for key, f in r.fields.items():
        if key.startswith(arch + ".") or key.startswith("tokenizer."):
            v = f.contents()
            if isinstance(v, str):
                w.add_string(key, v)
            elif isinstance(v, float):
                w.add_float32(key, v)
            else:
                w.add_uint32(key, v)
    for t in r.tensors:
        x = t.data if t.tensor_type in (T.F32, T.F16) else dequantize(t.data, t.tensor_type)
        w.add_tensor(t.name, x.astype(np.float32).reshape([int(i) for i in reversed(t.shape)]))
    finish(w)


def logits(base, lora, ids):
    m = llama_cpp.Llama(base, n_ctx=64, logits_all=True, verbose=False, n_threads=1, n_gpu_layers=0, type_k=0, type_v=0, flash_attn=False, lora_path=lora)
    m.eval(list(ids))
    return np.array(m.scores[:len(ids)], dtype=np.float32)


def adapter(rng, uniform=False):
    out = {}
    for layer in range(2):
        for name, (n_out, n_in, short) in SHAPES.items():
            module = "model.layers.%d.%s" % (layer, name)
            r = R if uniform else next((v for k, v in RANKS.items() if module.endswith("." + k)), R)
            alpha = ALPHA if uniform else next((v for k, v in ALPHAS.items() if module.endswith("." + k)), ALPHA)
            a = bf16(rng.normal(0, 1 / np.sqrt(n_in), (r, n_in)))
            b = bf16(rng.normal(0, 0.4, (n_out, r)))
            out[module] = (a, b, alpha / np.sqrt(r), "blk.%d.%s.weight" % (layer, short))
    return out


def write_peft(dir, ad):
    os.makedirs(dir, exist_ok=True)
    save_file({"base_model.model.%s.lora_%s.weight" % (m, "AB"[i]): x[i] for m, x in ad.items() for i in range(2)}, dir + "/adapter_model.safetensors", metadata={"format": "pt"})
    json.dump(dict(peft_type="LORA", r=R, lora_alpha=ALPHA, lora_dropout=0.0, use_rslora=True, rank_pattern=RANKS, alpha_pattern=ALPHAS, bias="none", task_type="CAUSAL_LM",
                   target_modules=["q_proj", "k_proj", "down_proj"], base_model_name_or_path="tiny", inference_mode=True), open(dir + "/adapter_config.json", "w"), indent=1)


def write_gguf(path, ad):
    w = GGUFWriter(path, "llama")
    w.add_string("general.type", "adapter")
    w.add_string("adapter.type", "lora")
    w.add_float32("adapter.lora.alpha", 8.0)
    for module, (a, b, scale, name) in ad.items():
        if module.endswith("q_proj"):
            b = permute(b, HEADS)
        if module.endswith("k_proj"):
            b = permute(b, KV)
        w.add_tensor(name + ".lora_a", a)
        w.add_tensor(name + ".lora_b", (b.astype(np.float64) * scale * a.shape[0] / 8.0).astype(np.float32))
    finish(w)


def write_mlx(dir, ad, scale):
    os.makedirs(dir, exist_ok=True)
    save_file({"%s.lora_%s" % (m, "ab"[i]): np.ascontiguousarray(x[i].T) for m, x in ad.items() for i in range(2)}, dir + "/adapters.safetensors")
    json.dump(dict(fine_tune_type="lora", num_layers=2, lora_parameters=dict(rank=R, scale=scale, dropout=0.0, keys=sorted(SHAPES))), open(dir + "/adapter_config.json", "w"), indent=1)


def main():
    rng = np.random.default_rng(5)
    ids = rng.integers(0, 80, 24)
    os.makedirs(OUT, exist_ok=True)
    ad = adapter(rng)
    write_peft(OUT + "/peft", ad)
    write_gguf(OUT + "/lora.gguf", ad)
    plain = {m: (a[:R], b, 1.5, n) for m, (a, b, _, n) in adapter(rng, uniform=True).items()}
    write_mlx(OUT + "/mlx", plain, 1.5)
    w = GGUFWriter(OUT + "/logits.gguf", "test")
    w.add_array("ids", [int(i) for i in ids])
    with tempfile.TemporaryDirectory() as at:
        widen(at + "/wide.gguf")
        write_gguf(at + "/plain.gguf", plain)
        base, lora, mlx = logits(at + "/wide.gguf", None, ids), logits(at + "/wide.gguf", OUT + "/lora.gguf", ids), logits(at + "/wide.gguf", at + "/plain.gguf", ids)
    print("logits up to %.2f; the adapter moves them by up to %.3f, mlx's by %.3f" % (np.abs(base).max(), np.abs(lora - base).max(), np.abs(mlx - base).max()))
    w.add_tensor("base", base)
    w.add_tensor("lora", lora)
    w.add_tensor("mlx", mlx)
    finish(w)


if __name__ == "__main__":
    main()
