#!/usr/bin/env python3
"""Makes tests/fixtures/refused/gguf_lora and /mlx: adapters that must be refused. What the message must say stands in the file itself
(key "test.expected", or "expected" in the config). Needs: pip install gguf==0.19.0 numpy safetensors. tests/test_adapter_file.c reads them with a
model of 2 layers, hidden 8, 2 heads of 4, 1 key/value head, ffn 12."""
import json
import os

import numpy as np
from gguf import GGUFWriter
from safetensors.numpy import save_file

OUT = "tests/fixtures/refused"
A, B = np.ones((2, 8), np.float32), np.ones((8, 2), np.float32)
Q = "blk.0.attn_q.weight"


def gguf(name, expected, tensors=None, arch="llama", **keys):
    all_keys = {"general.type": "adapter", "adapter.type": "lora", "adapter.lora.alpha": 4.0}
    all_keys.update({k.replace("__", "."): v for k, v in keys.items()})
    w = GGUFWriter("%s/gguf_lora/%s.gguf" % (OUT, name), arch)
    w.add_string("test.expected", expected)
    for k, v in all_keys.items():
        if isinstance(v, str):
            w.add_string(k, v)
        elif isinstance(v, float):
            w.add_float32(k, v)
        elif isinstance(v, list):
            w.add_array(k, v)
        elif v is not None:
            w.add_uint32(k, v)
    for n, x in (tensors if tensors is not None else {Q + ".lora_a": A, Q + ".lora_b": B}).items():
        w.add_tensor(n, x)
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()


def mlx(name, expected, tensors=None, **config):
    d = "%s/mlx/%s" % (OUT, name)
    os.makedirs(d, exist_ok=True)
    c = dict(expected=expected, fine_tune_type="lora", num_layers=1, lora_parameters=dict(rank=2, scale=2.0, dropout=0.0))
    c.update(config)
    json.dump(c, open(d + "/adapter_config.json", "w"))
    q = "model.layers.0.self_attn.q_proj"
    save_file(tensors if tensors is not None else {q + ".lora_a": np.ascontiguousarray(A.T), q + ".lora_b": np.ascontiguousarray(B.T)}, d + "/adapters.safetensors")


def main():
    os.makedirs(OUT + "/gguf_lora", exist_ok=True)
    bad = B.copy()
    bad[3, 1] = np.nan
    gguf("model", "general.type: not an adapter", general__type="model")
    gguf("kind", "adapter.type is not supported (expected lora", adapter__type="control_vector")
    gguf("alora", "adapter.alora.invocation_tokens", adapter__alora__invocation_tokens=[1, 2])
    gguf("no_alpha", "key adapter.lora.alpha is missing", adapter__lora__alpha=None)
    gguf("alpha_text", "adapter.lora.alpha: expected a real number", adapter__lora__alpha="8")
    gguf("alpha_nan", "adapter.lora.alpha is not a number", adapter__lora__alpha=float("nan"))
    gguf("other_architecture", "the adapter is for another base (expected llama, got qwen2)", arch="qwen2")
    gguf("empty", "there is no adapter in it", tensors={})
    gguf("half", "attn_q.weight.lora_a: the other half of the pair is missing", tensors={Q + ".lora_a": A})
    gguf("two_halves", "the other half of the pair is missing", tensors={Q + ".lora_a": A, "blk.1.attn_q.weight.lora_b": B})
    gguf("suffix", "unknown tensor blk.0.attn_q.weight.lora_c", tensors={Q + ".lora_a": A, Q + ".lora_c": B})
    gguf("norm", "unknown tensor blk.0.attn_norm.weight", tensors={Q + ".lora_a": A, Q + ".lora_b": B, "blk.0.attn_norm.weight": A[0]})
    gguf("embedding", "token_embd.weight.lora_a: not a linear layer", tensors={"token_embd.weight.lora_a": A, "token_embd.weight.lora_b": B})
    gguf("bias", "attn_q.bias.lora_a: not a linear layer", tensors={"blk.0.attn_q.bias.lora_a": A, "blk.0.attn_q.bias.lora_b": B})
    gguf("norm_pair", "model.layers.0.input_layernorm: the model has no such linear layer",
         tensors={"blk.0.attn_norm.weight.lora_a": A, "blk.0.attn_norm.weight.lora_b": B})
    gguf("layer", "model.layers.7.self_attn.q_proj: the model has no such linear layer", tensors={"blk.7.attn_q.weight.lora_a": A, "blk.7.attn_q.weight.lora_b": B})
    gguf("ranks", "ranks of A and B differ (got 2 and 3)", tensors={Q + ".lora_a": A, Q + ".lora_b": np.ones((8, 3), np.float32)})
    gguf("shape", "shape does not fit the model, the adapter is for another base (expected (8, 8), got (6, 8))", tensors={Q + ".lora_a": A, Q + ".lora_b": np.ones((6, 2), np.float32)})
    gguf("vector", "expected two dimensions, got 1", tensors={Q + ".lora_a": A[0], Q + ".lora_b": B})
    gguf("nan", "element 23 is not a number", tensors={Q + ".lora_a": A, Q + ".lora_b": bad})
    gguf("hash", "pennyweight.base is no SHA-256", pennyweight__base="0123")
    q = "model.layers.0.self_attn.q_proj"
    a, b = np.ascontiguousarray(A.T), np.ascontiguousarray(B.T)
    mlx("dora", "fine_tune_type is not supported (expected lora, got \"dora\")", fine_tune_type="dora")
    mlx("full", "got \"full\"", fine_tune_type="full")
    mlx("use_dora", "use_dora is not supported", use_dora=True)
    mlx("no_parameters", "lora_parameters: expected a map", lora_parameters=None)
    mlx("no_scale", "rank or scale is missing", lora_parameters=dict(rank=2))
    mlx("rank", "rank is out of range", lora_parameters=dict(rank=0, scale=1.0))
    mlx("zero", "scale must be a number other than 0", lora_parameters=dict(rank=2, scale=0.0))
    mlx("dropout", "dropout is out of range", lora_parameters=dict(rank=2, scale=1.0, dropout=1.5))
    mlx("other_rank", "rank does not fit the config (expected 3, got 2 and 2)", lora_parameters=dict(rank=3, scale=1.0))
    mlx("magnitude", "unknown tensor model.layers.0.self_attn.q_proj.m", tensors={q + ".lora_a": a, q + ".lora_b": b, q + ".m": A[0]})
    mlx("half", "q_proj.lora_b: the other half of the pair is missing", tensors={q + ".lora_b": b})
    mlx("transposed", "rank does not fit the config", tensors={q + ".lora_a": A, q + ".lora_b": B})
    mlx("head", "lm_head: the model has no such linear layer", tensors={"lm_head.lora_a": a, "lm_head.lora_b": b})
    mlx("shape", "(expected (8, 8), got (6, 8))", tensors={q + ".lora_a": a, q + ".lora_b": np.ones((2, 6), np.float32)})
    mlx("integers", "dtype is not supported", tensors={q + ".lora_a": a.astype(np.int32), q + ".lora_b": b})


if __name__ == "__main__":
    main()
