#!/usr/bin/env python3
"""Makes tests/fixtures/bnb.safetensors: what bitsandbytes (CPU) makes of a few known matrices. tests/test_quant.c compares bit for bit.

Needs: pip install torch bitsandbytes safetensors. The matrices are not stored: both sides make them from the same integers.
"""
import sys
import numpy as np
import torch
import bitsandbytes.functional as F
from safetensors.torch import save_file

SHAPES = [(64, 64), (64, 172), (5, 7), (3, 43), (192, 130), (300, 128)]


def matrix(n_out, n_in, zeros):
    """u^3 / 50 with u from a multiplicative hash: heavy near zero, as weights are. The third block is zero when asked for."""
    i = np.arange(n_out * n_in, dtype=np.uint64)
    h = ((i + np.uint64(1)) * np.uint64(2654435761)) & np.uint64(0xFFFFFFFF)
    h ^= h >> np.uint64(15)
    h = (h * np.uint64(2246822519)) & np.uint64(0xFFFFFFFF)
    u = (h >> np.uint64(8)).astype(np.float64) / 8388608.0 - 1.0
    x = (u * u * u / 50.0).astype(np.float32)
    if zeros:
        x[128:192] = 0
    return torch.from_numpy(x.reshape(n_out, n_in))


def main(path):
    out = {"dynamic_map": F.create_dynamic_map()}
    for n_out, n_in in SHAPES:
        for kind in ("nf4", "fp4"):
            x = matrix(n_out, n_in, zeros=(n_out, n_in) == (64, 172))
            name = f"{kind}.{n_out}x{n_in}"
            packed, state = F.quantize_4bit(x, blocksize=64, quant_type=kind)
            out[name + ".packed"] = packed.reshape(-1).contiguous()
            out[name + ".absmax"] = state.absmax.clone()
            packed, state = F.quantize_4bit(x, blocksize=64, quant_type=kind, compress_statistics=True)
            out[name + ".absmax_q"] = state.absmax.clone()
            out[name + ".nested_absmax"] = state.state2.absmax.clone()
            out[name + ".nested_code"] = state.state2.code.clone()
            out[name + ".offset"] = state.offset.reshape(1).clone()
            if kind == "nf4" and n_out < 64:
                out[name + ".decoded"] = F.dequantize_4bit(packed, state).float().contiguous()
    save_file(out, path)


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "tests/fixtures/bnb.safetensors")
