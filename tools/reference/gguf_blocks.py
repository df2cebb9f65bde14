#!/usr/bin/env python3
"""Makes tests/fixtures/gguf_blocks.gguf: what the gguf package makes of blocks of every type. tests/test_gguf.c compares bit for bit.

Needs: pip install gguf==0.19.0 numpy (and, for the K types' own quantiser, llama-cpp-python==0.3.36; without it those tensors are left as
they are in the file that is there). For each type: tensor TYPE, random blocks with finite scales, and TYPE.values, its decoding. Then
"source" (f32) and what the package (Q8_0, Q4_0) or llama.cpp (Q4_K, Q6_K) quantises it to: TYPE.encoded.
"""
import ctypes
import glob
import os
import sys

import numpy as np
from gguf import GGMLQuantizationType as T, GGUFReader, GGUFWriter, GGML_QUANT_SIZES
from gguf.quants import dequantize, quantize

TYPES = [T.Q8_0, T.Q4_0, T.Q4_1, T.Q5_0, T.Q5_1, T.Q4_K, T.Q5_K, T.Q6_K, T.IQ4_NL]
# where the f16 numbers of a block are
HALVES = {T.Q8_0: [0], T.Q4_0: [0], T.Q4_1: [0, 2], T.Q5_0: [0], T.Q5_1: [0, 2], T.Q4_K: [0, 2], T.Q5_K: [0, 2], T.Q6_K: [208], T.IQ4_NL: [0]}
ROWS, COLUMNS = 3, 512


def blocks(rng, qtype):
    elements, size = GGML_QUANT_SIZES[qtype]
    raw = rng.integers(0, 256, (ROWS * COLUMNS // elements, size), dtype=np.uint8)
    for at in HALVES[qtype]:
        half = rng.normal(0, 0.02, raw.shape[0]).astype(np.float16)
        half[:3] = [np.float16(0), np.float16(6e-8), np.float16(-1.5)]      # zero, the smallest, a large negative one
        raw[:, at:at + 2] = half.view(np.uint8).reshape(-1, 2)
    return raw.reshape(ROWS, -1)


def source(rng):
    """Rows of kinds: weights, all zeros, a block of one value, far outlier, positive only, large, tiny."""
    x = rng.normal(0, 0.02, (9, COLUMNS)).astype(np.float32)
    x[1] = 0
    x[2] = 0.75
    x[3, ::97] *= 40
    x[4] = np.abs(x[4]) + 0.3
    x[5] *= 1e4
    x[6] *= 1e-6
    x[7] = np.sign(x[7]) * 0.02
    x[8] = -np.abs(x[8])
    return x


def llama_quantise(x, qtype):
    import llama_cpp
    lib = ctypes.CDLL(glob.glob(os.path.join(os.path.dirname(llama_cpp.__file__), "lib", "libggml-base.so*"))[0])
    fn = lib.ggml_quantize_chunk
    fn.restype = ctypes.c_size_t
    fn.argtypes = [ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64, ctypes.c_int64, ctypes.c_void_p]
    elements, size = GGML_QUANT_SIZES[qtype]
    out = np.zeros((x.shape[0], x.shape[1] // elements * size), dtype=np.uint8)
    x = np.ascontiguousarray(x, dtype=np.float32)
    n = fn(int(qtype), x.ctypes.data, out.ctypes.data, 0, x.shape[0], x.shape[1], None)
    assert n == out.nbytes
    return out


def main(path):
    rng = np.random.default_rng(7)
    tensors = []
    for q in TYPES:
        raw = blocks(rng, q)
        tensors += [(q.name, raw, q), (q.name + ".values", dequantize(raw, q), None)]
    x = source(rng)
    tensors.append(("source", x, None))
    for q in (T.Q8_0, T.Q4_0):
        tensors.append((q.name + ".encoded", quantize(x, q), q))
    try:
        kinds = [(q.name + ".encoded", llama_quantise(x, q), q) for q in (T.Q4_K, T.Q6_K)]
    except ImportError:
        kinds = []
        if os.path.exists(path):
            kinds = [(t.name, np.array(t.data), t.tensor_type) for t in GGUFReader(path).tensors if t.name in ("Q4_K.encoded", "Q6_K.encoded")]
    tensors += kinds
    w = GGUFWriter(path + ".new", "test")
    w.add_uint8("test.u8", 200)
    w.add_int8("test.i8", -7)
    w.add_uint16("test.u16", 60000)
    w.add_int16("test.i16", -30000)
    w.add_uint32("test.u32", 4000000000)
    w.add_int32("test.i32", -5)
    w.add_float32("test.f32", 0.1)
    w.add_bool("test.bool", True)
    w.add_string("test.string", "naïve ☃")
    w.add_uint64("test.u64", 1 << 62)
    w.add_int64("test.i64", -(1 << 62))
    w.add_float64("test.f64", 0.1)
    w.add_array("test.strings", ["", "one", "zwei ü"])
    w.add_array("test.ints", [3, -1, 2])
    w.add_array("test.reals", [0.5, -0.25])
    w.add_array("test.flags", [True, False])
    w.add_array("test.nested", [[1, 2], [3]])
    for name, data, q in tensors:
        w.add_tensor(name, data, raw_dtype=q)
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()
    os.replace(path + ".new", path)
    for name, data, q in kinds:
        print(name, "rmse by row:", np.sqrt(((dequantize(data, q) - x) ** 2).mean(axis=1)))


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "tests/fixtures/gguf_blocks.gguf")
