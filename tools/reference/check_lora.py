"""GGUF adapters against llama.cpp, live: adapters of peft's form with fresh random values, exported by pw, give llama.cpp pw's logits.

Needs: pip install gguf==0.19.0 numpy safetensors llama-cpp-python==0.3.36. Run from the repository.
A Llama with grouped heads, a Mixtral and a Qwen3-MoE are written as Hugging Face folders (check_gguf.py) and made f32 GGUF files by pw. Adapters, of all experts too: plain, rank-stabilised,
with patterns of ranks and alphas, as f32 and as f16, scaled. pw computes on the folder with the PEFT adapter, and on the GGUF file with the GGUF
adapter; llama.cpp on the file with the GGUF adapter (bound 2e-4; f16 adapters: llama.cpp rounds activations in front of f16 to 16 bits, so
they are compared between pw and pw, and llama.cpp's distance is printed). Then back to a PEFT folder: the same logits again.
"""
import argparse
import json
import os
import tempfile

import llama_cpp
import numpy as np
from safetensors.numpy import save_file

from check_gguf import EXPERTS, FAMILIES, folder, pw

ATTENTION = {"self_attn.q_proj": (256, 256), "self_attn.k_proj": (64, 256), "self_attn.v_proj": (64, 256), "self_attn.o_proj": (256, 256)}


def modules(family):
    where, (gate, up, down), wide = FAMILIES[family][1] or ("mlp", ("gate_proj", "up_proj", "down_proj"), 512)
    halves = ["%s.experts.%d." % (where, e) for e in range(EXPERTS)] if FAMILIES[family][1] else [where + "."]
    return {**ATTENTION, **{h + n: s for h in halves for n, s in ((gate, (wide, 256)), (up, (wide, 256)), (down, (256, wide)))}}


def adapter(dir, rng, r, alpha, rslora, ranks, alphas, shapes):
    os.makedirs(dir)
    t = {}
    for layer in range(2):
        for name, (n_out, n_in) in shapes.items():
            module = "model.layers.%d.%s" % (layer, name)
            own = next((v for k, v in ranks.items() if module.endswith(k)), r)
            t["base_model.model.%s.lora_A.weight" % module] = rng.normal(0, 1 / np.sqrt(n_in), (own, n_in)).astype(np.float32)
            t["base_model.model.%s.lora_B.weight" % module] = rng.normal(0, 0.2, (n_out, own)).astype(np.float32)
    save_file(t, dir + "/adapter_model.safetensors", metadata={"format": "pt"})
    json.dump(dict(peft_type="LORA", r=r, lora_alpha=alpha, use_rslora=rslora, rank_pattern=ranks, alpha_pattern=alphas, target_modules=sorted({n.split(".")[-1] for n in shapes}),
                   bias="none", task_type="CAUSAL_LM"), open(dir + "/adapter_config.json", "w"))


def ours(model, lora, ids, at):
    json.dump([int(i) for i in ids], open(at + "/ids.json", "w"))
    pw("score", model, "--ids", at + "/ids.json", "--logits", at + "/logits.npy", "--device", "cpu", "-q", "--force", *(["--adapter", lora] if lora else []))
    return np.load(at + "/logits.npy")


def theirs(model, lora, ids):
    m = llama_cpp.Llama(model, n_ctx=256, logits_all=True, verbose=False, n_threads=1, n_gpu_layers=0, type_k=0, type_v=0, flash_attn=False, lora_path=lora)
    m.eval(list(ids))
    return np.array(m.scores[:len(ids)], dtype=np.float32)


def check(rng, family):
    worst = 0
    every = modules(family)
    up, down = FAMILIES[family][1][1][1:] if FAMILIES[family][1] else ("up_proj", "down_proj")
    in_layer = "layers.1.mlp.up_proj" if family == "llama" else up      # of experts: one rank for all of a layer
    cases = [("plain", 8, 16, False, {}, {}, every, "f32", ""), ("rank-stabilised", 8, 16, True, {}, {}, every, "f32", ""),
             ("patterns", 4, 8, False, {in_layer: 16, "k_proj": 2}, {"q_proj": 3, ("" if family == "llama" else "experts.2.") + down: 12.5}, every, "f32", ""),
             ("patterns, rank-stabilised, scaled", 4, 8, True, {"o_proj": 6}, {"v_proj": 1.5}, {n: every[n] for n in every if n[-6:] in ("q_proj", "v_proj", "o_proj") or n.endswith("." + down)}, "f32", ":0.7"),
             ("f16", 8, 16, False, {}, {}, every, "f16", "")][:5 if family == "llama" else 4]   # such a rounding may send a token to another expert
    with tempfile.TemporaryDirectory() as at:
        hf, file = at + "/hf", at + "/base.gguf"
        folder(hf, rng, "tests/fixtures/train_golden/model", family)
        pw("quant", hf, "-o", file, "--type", "f32", "--format", "gguf", "-q", "--device", "cpu")
        ids = rng.integers(0, json.load(open(hf + "/config.json"))["vocab_size"], 60)
        base = theirs(file, None, ids)
        for i, (what, r, alpha, rslora, ranks, alphas, names, kind, scale) in enumerate(cases):
            peft, gguf, back = "%s/a%d" % (at, i), "%s/a%d.gguf" % (at, i), "%s/b%d" % (at, i)
            adapter(peft, rng, r, alpha, rslora, ranks, alphas, names)
            pw("lora", "export", peft + scale, "--to", "gguf", "-o", gguf, "--model", hf, "-q", "--type", kind)
            pw("lora", "export", gguf, "--to", "peft", "-o", back, "--model", file, "-q")
            a, b, c, d = ours(hf, peft + scale, ids, at), ours(file, gguf, ids, at), theirs(file, gguf, ids), ours(hf, back, ids, at)
            moved = np.abs(c - base).max()
            assert moved > 0.1, "%s: llama.cpp does not see the adapter" % what
            bound = 2e-4 if kind == "f32" else 2e-2
            for name, x in (("pw on the GGUF files", b), ("back in a PEFT folder", d)) + ((("llama.cpp", c),) if kind == "f32" else ()):
                diff = float(np.abs(x - a).max())
                assert diff <= bound, "%s: %s: a logit differs by %g" % (what, name, diff)
                worst = max(worst, diff if kind == "f32" else 0)
            print("lora %-9s %-34s llama.cpp within %.2g of pw (the adapter moves logits by up to %.2f), pw on the GGUF files %.2g, back in a PEFT folder %.2g"
                  % (family, what, np.abs(c - a).max(), moved, np.abs(b - a).max(), np.abs(d - a).max()))
    return len(cases), worst


def main(seed):
    rng = np.random.default_rng(seed)
    counts, worst = zip(*(check(rng, family) for family in FAMILIES))
    print("lora: %d adapters, largest difference of a logit (f32) %.3g" % (sum(counts), max(worst)))


if __name__ == "__main__":
    p = argparse.ArgumentParser()
    p.add_argument("--seed", type=int, default=1)
    main(p.parse_args().seed)
