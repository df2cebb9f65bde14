"""GGUF files of fresh random models against llama.cpp, live: opened there, the same tokens, the same logits.

Needs: pip install gguf==0.19.0 numpy safetensors llama-cpp-python==0.3.36. Run from the repository.
A Llama with grouped heads, a Mixtral and a Qwen3-MoE, each with a tokenizer, are written as Hugging Face folders; pw quant makes a file of each type. llama.cpp reads each
(its tokenizer must give pw's ids), and a copy of it with all matrices in f32, made by pw from the file: llama.cpp rounds activations in
front of blocks to 8 bits, in front of f16 to 16 bits, so its logits are compared on the copy (bound 1e-4: f32 sums in another order),
those on the file itself are printed. Blocks must be the gguf package's, its decoding of them what pw makes of them.
"""
import argparse
import json
import os
import subprocess
import sys
import tempfile

import llama_cpp
import numpy as np
from gguf import GGMLQuantizationType as T, GGUFReader
from gguf.quants import dequantize, quantize
from safetensors.numpy import load_file, save_file

PW = "./pw"
TEXTS = ["Once upon a time", "Hello, world! 123", " two  spaces and\ttab\n", "naïve café ☃ 😀", "x"]


def pw(*args, text=None):
    p = subprocess.run([PW, *args], input=text, capture_output=True, text=True)
    if p.returncode:
        sys.exit("pw %s: %s" % (" ".join(args), p.stderr))
    return p.stdout


EXPERTS = 4
FAMILIES = {   # what differs from a Llama in the config; of models with experts: where they hang, their linears, their width
    "llama": (dict(architectures=["LlamaForCausalLM"], model_type="llama"), None),
    "mixtral": (dict(architectures=["MixtralForCausalLM"], model_type="mixtral", num_local_experts=EXPERTS, num_experts_per_tok=2, sliding_window=None),
                ("block_sparse_moe", ("w1", "w3", "w2"), 512)),
    "qwen3-moe": (dict(architectures=["Qwen3MoeForCausalLM"], model_type="qwen3_moe", num_experts=EXPERTS, num_experts_per_tok=2, head_dim=32, moe_intermediate_size=256,
                       norm_topk_prob=True, decoder_sparse_step=1, mlp_only_layers=[]), ("mlp", ("gate_proj", "up_proj", "down_proj"), 256)),
}


def folder(path, rng, tokenizer, family="llama"):
    os.makedirs(path)
    vocab = len(json.load(open(tokenizer + "/tokenizer.json"))["model"]["vocab"])
    hidden, ffn, heads, kv, layers = 256, 512, 8, 2, 2
    own, experts = FAMILIES[family]
    json.dump(dict(vocab_size=vocab, hidden_size=hidden, intermediate_size=ffn, num_hidden_layers=layers,
                   num_attention_heads=heads, num_key_value_heads=kv, max_position_embeddings=256, rms_norm_eps=1e-5, rope_theta=10000.0, hidden_act="silu",
                   tie_word_embeddings=False, bos_token_id=0, eos_token_id=1, **own), open(path + "/config.json", "w"))
    for name in ("tokenizer.json", "tokenizer_config.json"):
        open(path + "/" + name, "w").write(open(tokenizer + "/" + name).read())
    t = {"model.embed_tokens.weight": (vocab, hidden), "lm_head.weight": (vocab, hidden), "model.norm.weight": (hidden,)}
    for i in range(layers):
        p = "model.layers.%d." % i
        t.update({p + "input_layernorm.weight": (hidden,), p + "post_attention_layernorm.weight": (hidden,), p + "self_attn.q_proj.weight": (hidden, hidden),
                  p + "self_attn.k_proj.weight": (kv * hidden // heads, hidden), p + "self_attn.v_proj.weight": (kv * hidden // heads, hidden),
                  p + "self_attn.o_proj.weight": (hidden, hidden)})
        if "head_dim" in own:
            t.update({p + "self_attn.q_norm.weight": (own["head_dim"],), p + "self_attn.k_norm.weight": (own["head_dim"],)})
        where, names, wide = experts or ("mlp", ("gate_proj", "up_proj", "down_proj"), ffn)
        if experts:
            t[p + where + ".gate.weight"] = (EXPERTS, hidden)
        for half in [".experts.%d." % e for e in range(EXPERTS)] if experts else ["."]:
            t.update({p + where + half + n + ".weight": s for n, s in zip(names, ((wide, hidden), (wide, hidden), (hidden, wide)))})
    save_file({n: (1 + rng.normal(0, 0.1, s) if len(s) == 1 else rng.normal(0, 1.5 / np.sqrt(s[1]), s)).astype(np.float32) for n, s in t.items()},
              path + "/model.safetensors", metadata={"format": "pt"})


def plain_params(default=llama_cpp.llama_model_default_params):
    """Without repacked weights, whose AMX kernels end in an illegal instruction on some virtual machines."""
    p = default()
    p.use_extra_bufts = False
    return p


llama_cpp.llama_cpp.llama_model_default_params = llama_cpp.llama_model_default_params = plain_params


def llama(path):
    return llama_cpp.Llama(path, n_ctx=256, logits_all=True, verbose=False, n_threads=1, n_gpu_layers=0, type_k=0, type_v=0, flash_attn=False)


def llama_logits(m, ids):
    m.reset()
    m.eval(list(ids))
    return np.array(m.scores[:len(ids)], dtype=np.float32)


def our_logits(path, ids, at):
    json.dump([int(i) for i in ids], open(at + "/ids.json", "w"))
    pw("score", path, "--ids", at + "/ids.json", "--logits", at + "/logits.npy", "--device", "cpu", "-q", "--force")
    return np.load(at + "/logits.npy")


def check_blocks(path, source, kind):
    """Of tensors that keep their order: what the package says of the bytes."""
    back, count = load_file(source + "/model.safetensors"), 0
    for t in GGUFReader(path).tensors:
        if t.name.endswith("ffn_down.weight") and t.tensor_type == kind:
            x = back["model.layers.%s.mlp.down_proj.weight" % t.name.split(".")[1]]
            if kind in (T.Q8_0, T.Q4_0):
                assert (quantize(x, kind) == t.data).all(), "%s: %s is not what the gguf package makes" % (path, t.name)
            count += 1
    return count


def check(rng, family):
    worst = 0
    with tempfile.TemporaryDirectory() as at:
        hf = at + "/hf"
        folder(hf, rng, "tests/fixtures/train_golden/model", family)
        ids = None
        for name, kind in (("f32", T.F32), ("f16", T.F16), ("q8_0", T.Q8_0), ("q4_0", T.Q4_0), ("q4_K", T.Q4_K), ("q6_K", T.Q6_K)):
            file, wide = "%s/%s.gguf" % (at, name), "%s/%s.wide.gguf" % (at, name)
            pw("quant", hf, "-o", file, "--type", name, "--format", "gguf", "-q", "--device", "cpu")
            pw("quant", file, "-o", wide, "--type", "f32", "--format", "gguf", "-q", "--device", "cpu")
            own, m = llama(file), llama(wide)
            for text in TEXTS:
                ours = json.loads(pw("tokenize", file, "-", text=text))
                theirs = own.tokenize(text.encode(), add_bos=True, special=True)
                assert ours == theirs, "%s: %r: pw %s, llama.cpp %s" % (name, text, ours, theirs)
            vocab = m.n_vocab()
            ids = ids if ids is not None else rng.integers(0, vocab, 60)
            logits, a, b = our_logits(file, ids, at), llama_logits(m, ids), llama_logits(own, ids)
            d = float(np.abs(logits - a).max())
            assert d <= 1e-4, "%s: a logit differs by %g" % (name, d)
            blocks = check_blocks(file, hf, kind)
            wide_tensors = {t.name: t for t in GGUFReader(wide).tensors}
            for t in GGUFReader(file).tensors:
                x = dequantize(t.data, t.tensor_type) if t.tensor_type not in (T.F32, T.F16) else t.data.astype(np.float32)
                assert (x.reshape(-1) == wide_tensors[t.name].data.reshape(-1)).all(), "%s: %s decodes to other numbers" % (name, t.name)
            worst = max(worst, d)
            print("gguf %-9s %-5s logits within %.2g of llama.cpp on the same numbers (up to %.1f), %.2g on the file itself; %d tensors decode as the package does, %d compared as bytes"
                  % (family, name, d, np.abs(a).max(), np.abs(logits - b).max(), len(wide_tensors), blocks if kind in (T.Q8_0, T.Q4_0) else 0))
        pw("quant", at + "/f32.gguf", "-o", at + "/back", "--type", "f32", "-q")
        x, y = load_file(hf + "/model.safetensors"), load_file(at + "/back/model.safetensors")
        assert x.keys() == y.keys() and all((x[k] == y[k]).all() for k in x), "%s: not the folder's tensors, back in a folder" % family
    return worst


def main(seed):
    rng = np.random.default_rng(seed)
    worst = max(check(rng, family) for family in FAMILIES)
    print("gguf: largest difference of a logit %.3g, %d texts with equal ids in each of %d files" % (worst, len(TEXTS), 6 * len(FAMILIES)))


if __name__ == "__main__":
    p = argparse.ArgumentParser()
    p.add_argument("--seed", type=int, default=1)
    main(p.parse_args().seed)
