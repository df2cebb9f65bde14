#!/usr/bin/env python3
"""Makes tests/fixtures/gguf/families/NAME: tiny models of Gemma 2, Gemma 3 and Phi-3 as a Hugging Face folder and as model.gguf, with the same numbers, and
logits of both worlds. tests/test_gguf_families.c compares.

Needs: pip install torch transformers safetensors gguf==0.19.0 numpy llama-cpp-python==0.3.36 peft.
  config.json, model.safetensors   made by families.py (bf16)
  model.gguf                       the same in BF16 and F32, keys and names as llama.cpp's converter gives them
  logits.gguf                      "ids", "llama" (llama.cpp; matrices widened to f32, f32 key/value cache), "torch" (log-probabilities of transformers);
                                   phi3: "short_ids", "short_llama", of a context within the original one;
                                   gemma2, phi3: "lora_llama", "lora_torch" with tests/fixtures/families/NAME/adapter, for llama.cpp written by the gguf package
and seeds of one layer each for the fuzz target: tests/fuzz/corpus/gguf_model/NAME.
llama.cpp looks GELU up in a table of f16, which is why its logits of Gemma are about 1e-3 away: with GELU rounded so, transformers is nearer by far (printed).
It leaves Phi-3's window out; the fixture's is therefore longer than the sequence.
"""
import json
import os
import pathlib
import shutil
import sys
import tempfile

import numpy as np
import llama_cpp
import peft
import torch
from gguf import GGMLQuantizationType as T, GGUFWriter, RopeScalingType
from gguf.quants import quantize
from safetensors.torch import load_file

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import families
from families import T as TF, rope

FOLDER = pathlib.Path("tests/fixtures/gguf/families")
LOCAL = dict(rope_type="default", rope_theta=1e4)
MODELS = {
    "gemma2": (TF.Gemma2Config, dict(head_dim=14, sliding_window=9, query_pre_attn_scalar=14, attn_logit_softcapping=4.0, final_logit_softcapping=6.0,
                                     rope_parameters=rope("default")), True),
    "gemma3": (TF.Gemma3TextConfig, dict(hidden_size=16, intermediate_size=20, head_dim=12, num_attention_heads=2, num_key_value_heads=1, num_hidden_layers=7, sliding_window=6,
                                         query_pre_attn_scalar=12, rope_parameters=dict(full_attention=dict(rope_type="linear", factor=4.0, rope_theta=1e6),
                                                                                        sliding_attention=LOCAL)), True),
    "phi3": (TF.Phi3Config, dict(hidden_size=32, original_max_position_embeddings=16, partial_rotary_factor=0.75, sliding_window=50,
                                 rope_parameters=rope("longrope", short_factor=[1.0, 1.2, 1.5], long_factor=[1.1, 2.5, 4.0])), False),
}
OUTER = {"model.embed_tokens": "token_embd", "lm_head": "output", "model.norm": "output_norm"}
INNER = {"input_layernorm": "attn_norm", "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output",
         "self_attn.qkv_proj": "attn_qkv", "self_attn.q_norm": "attn_q_norm", "self_attn.k_norm": "attn_k_norm", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up",
         "mlp.gate_up_proj": "ffn_up", "mlp.down_proj": "ffn_down"}
NORMS = {True: {"post_attention_layernorm": "post_attention_norm", "pre_feedforward_layernorm": "ffn_norm", "post_feedforward_layernorm": "post_ffw_norm"},
         False: {"post_attention_layernorm": "ffn_norm"}}


def name_of(hf, gemma):
    stem = hf.removesuffix(".weight")
    if stem in OUTER:
        return OUTER[stem] + ".weight"
    _, _, layer, rest = stem.split(".", 3)
    return "blk.%s.%s.weight" % (layer, {**INNER, **NORMS[gemma]}[rest])


def keys(w, arch, c, original):
    w.add_block_count(c.num_hidden_layers)
    w.add_context_length(c.max_position_embeddings)
    w.add_embedding_length(c.hidden_size)
    w.add_feed_forward_length(c.intermediate_size)
    w.add_head_count(c.num_attention_heads)
    w.add_head_count_kv(c.num_key_value_heads)
    w.add_layer_norm_rms_eps(c.rms_norm_eps)
    w.add_vocab_size(c.vocab_size)
    w.add_sliding_window(c.sliding_window or 0)
    r = c.rope_parameters
    if arch == "phi3":
        w.add_rope_dimension_count(int(c.hidden_size // c.num_attention_heads * r["partial_rotary_factor"]))
        w.add_rope_freq_base(r["rope_theta"])
        w.add_rope_scaling_orig_ctx_len(original)
        w.add_rope_scaling_attn_factors(float(np.sqrt(1 + np.log(c.max_position_embeddings / c.original_max_position_embeddings) / np.log(c.original_max_position_embeddings))))
    else:
        w.add_key_length(c.head_dim)
        w.add_value_length(c.head_dim)
        full = r.get("full_attention", r)
        w.add_rope_freq_base(full["rope_theta"])
        if full["rope_type"] == "linear":
            w.add_rope_scaling_type(RopeScalingType.LINEAR)
            w.add_rope_scaling_factor(full["factor"])
        if arch == "gemma2":
            w.add_attn_logit_softcapping(c.attn_logit_softcapping)
            w.add_final_logit_softcapping(c.final_logit_softcapping)
        else:
            w.add_rope_freq_base_swa(r["sliding_attention"]["rope_theta"])
    w.add_tokenizer_model("none")


def finish(w):
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()


def write(path, arch, c, weights, wide, original):
    gemma = arch.startswith("gemma")
    w = GGUFWriter(str(path), arch)
    keys(w, arch, c, original)
    for hf, x in weights.items():
        if gemma and hf.endswith("norm.weight"):
            x = x + 1
        if wide or x.ndim == 1:
            w.add_tensor(name_of(hf, gemma), x)
        else:
            w.add_tensor(name_of(hf, gemma), quantize(x, T.BF16), raw_dtype=T.BF16)
    if arch == "phi3":
        for which in ("short", "long"):
            w.add_tensor("rope_factors_%s.weight" % which, np.array(c.rope_parameters[which + "_factor"], dtype=np.float32))
    finish(w)


def write_lora(path, arch, adapter):
    settings = json.loads((adapter / "adapter_config.json").read_text())
    w = GGUFWriter(str(path), arch)
    w.add_type("adapter")
    w.add_string("adapter.type", "lora")
    w.add_float32("adapter.lora.alpha", float(settings["lora_alpha"]))
    for key, x in sorted(load_file(adapter / "adapter_model.safetensors").items()):
        module, half = key.removeprefix("base_model.model.").removesuffix(".weight").rsplit(".lora_", 1)
        w.add_tensor("%s.lora_%s" % (name_of(module + ".weight", arch.startswith("gemma")), half.lower()), x.float().numpy())
    finish(w)


def llama(arch, c, weights, ids, original, adapter=None):
    with tempfile.TemporaryDirectory() as folder:
        write(folder + "/wide.gguf", arch, c, weights, True, original)
        lora = {}
        if adapter:
            write_lora(folder + "/lora.gguf", arch, adapter)
            lora = dict(lora_path=folder + "/lora.gguf")
        m = llama_cpp.Llama(folder + "/wide.gguf", n_ctx=64, logits_all=True, verbose=False, n_threads=1, n_gpu_layers=0, type_k=0, type_v=0, flash_attn=False, **lora)
        m.eval(list(ids))
        return np.array(m.scores[:len(ids)], dtype=np.float32)


def log_softmax(x):
    x = x.astype(np.float64)
    return x - np.log(np.exp(x - x.max(-1, keepdims=True)).sum(-1, keepdims=True)) - x.max(-1, keepdims=True)


class HalfGelu(torch.nn.Module):
    def forward(self, x):
        return torch.nn.functional.gelu(x.half().float(), approximate="tanh").half().float()


def make(name, seed):
    families.FAMILIES[name] = MODELS[name]
    folder = FOLDER / name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    families.make_model(folder, name, seed)
    model = families.load(folder)
    c = model.config
    weights = {k: v.float().numpy() for k, v in sorted(load_file(folder / "model.safetensors").items())}
    if c.tie_word_embeddings:
        weights.pop("lm_head.weight", None)
    ids = families.ids_of(families.seeded(seed + 1), 40)
    original = getattr(c, "original_max_position_embeddings", 0)
    write(folder / "model.gguf", name, c, weights, False, original)
    theirs, torchs = llama(name, c, weights, ids, original), families.logprobs(model, ids).numpy()
    w = GGUFWriter(str(folder / "logits.gguf"), "test")
    w.add_array("ids", ids)
    w.add_tensor("llama", theirs)
    w.add_tensor("torch", torchs)
    print("%s: llama.cpp's logits up to %.2f, its log-probabilities within %.3g of transformers'" % (name, np.abs(theirs).max(), np.abs(log_softmax(theirs) - torchs).max()))
    adapter = pathlib.Path("tests/fixtures/families") / name / "adapter"
    if name != "gemma3":     # whose fixture there has another shape
        x, y = llama(name, c, weights, ids, original, adapter), families.logprobs(peft.PeftModel.from_pretrained(families.load(folder), adapter).eval(), ids).numpy()
        w.add_tensor("lora_llama", x)
        w.add_tensor("lora_torch", y)
        print("  with an adapter: %.3g away from without, llama.cpp within %.3g of transformers" % (np.abs(y - torchs).max(), np.abs(log_softmax(x) - y).max()))
    if name != "phi3":       # llama.cpp looks GELU up in a table of f16
        for layer in model.model.layers:
            layer.mlp.act_fn = HalfGelu()
        print("  with GELU of and to f16, as llama.cpp has it: within %.3g" % np.abs(log_softmax(theirs) - families.logprobs(model, ids).numpy()).max())
    if name == "phi3":
        short = ids[:14]
        w.add_array("short_ids", short)
        x = llama(name, c, weights, short, 4096)
        w.add_tensor("short_llama", x)
        print("  short: within %.3g" % np.abs(log_softmax(x) - families.logprobs(model, short).numpy()).max())
    finish(w)


def seed_of(name):
    """One layer, a few rows: for the fuzz target."""
    kind, extra, _ = MODELS[name]
    c = kind(**{**families.COMMON, **extra, "hidden_size": 16 if name == "phi3" else 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 1, "vocab_size": 6,
                **({} if name == "phi3" else {"head_dim": 4})})
    weights = {k: v.float().numpy() for k, v in sorted(families.transformers.AutoModelForCausalLM.from_config(c).state_dict().items()) if k != "lm_head.weight" or not c.tie_word_embeddings}
    write("tests/fuzz/corpus/gguf_model/" + name, name, c, weights, False, 16)


if __name__ == "__main__":
    for i, name in enumerate(MODELS):
        make(name, 300 + i)
        torch.manual_seed(i)
        seed_of(name)
