#!/usr/bin/env python3
"""Makes tests/fixtures/gguf/lora/{mixtral,qwen3moe}.gguf: GGUF adapters of all experts of a layer, and NAME.logits.gguf: llama.cpp's logits with them on
tests/fixtures/gguf/NAME.gguf, widened to f32. tests/test_gguf_experts.c compares.

Needs: pip install gguf==0.19.0 numpy llama-cpp-python==0.3.36. Run from the repository.
Of rank 2: q, the three linears of all experts.
"""
import tempfile

import numpy as np
from gguf import GGUFReader, GGUFWriter

from gguf_lora import OUT, bf16, finish, logits, widen

NAMES = ["attn_q", "ffn_gate_exps", "ffn_up_exps", "ffn_down_exps"]
R, ALPHA = 2, 5.0


def write(path, arch, shapes, rng):
    w = GGUFWriter(path, arch)
    w.add_string("general.type", "adapter")
    w.add_string("adapter.type", "lora")
    w.add_float32("adapter.lora.alpha", ALPHA)
    for name in NAMES:
        *experts, n_out, n_in = shapes["blk.0.%s.weight" % name]
        a, b = bf16(rng.normal(0, 1 / np.sqrt(n_in), (*experts, R, n_in))), bf16(rng.normal(0, 0.3, (*experts, n_out, R)))
        w.add_tensor("blk.0.%s.weight.lora_a" % name, a)
        w.add_tensor("blk.0.%s.weight.lora_b" % name, b)
    finish(w)


def main():
    rng = np.random.default_rng(6)
    for name, arch in (("mixtral", "llama"), ("qwen3moe", "qwen3moe")):
        base, lora = "tests/fixtures/gguf/%s.gguf" % name, "%s/%s.gguf" % (OUT, name)
        write(lora, arch, {t.name: [int(i) for i in reversed(t.shape)] for t in GGUFReader(base).tensors}, rng)
        ids = rng.integers(0, 70, 24)
        with tempfile.TemporaryDirectory() as at:
            widen(at + "/wide.gguf", base, arch)
            plain, x = logits(at + "/wide.gguf", None, ids), logits(at + "/wide.gguf", lora, ids)
        print("%s: logits up to %.2f; the adapter moves them by up to %.3f" % (name, np.abs(plain).max(), np.abs(x - plain).max()))
        w = GGUFWriter("%s/%s.logits.gguf" % (OUT, name), "test")
        w.add_array("ids", [int(i) for i in ids])
        w.add_tensor("logits", x)
        finish(w)


if __name__ == "__main__":
    main()
