"""bitsandbytes folders against transformers and bitsandbytes on the processor, live, in both directions.

Needs: pip install torch transformers bitsandbytes numpy safetensors accelerate. Run from the repository.
  written by pw         nf4 and fp4, double quantisation or not, int8, of an f32 and of a bf16 base: transformers loads them and gives the logits of pw (f32)
  written by transformers, read by pw    nf4 and fp4, nested or not, bnb_4bit_quant_storage uint8, bfloat16, float16, float32; LLM.int8()
  models with experts   transformers 5.23 quantises attention alone: what pw writes with --experts stored is that, tensor for tensor, and it is opened; what it writes without has
                        the codes that bitsandbytes gives of each expert (transformers 4.57.6, which opens those folders, is not among the requirements), also of joined ones
bitsandbytes 0.50 multiplies 4-bit weights on the processor in bf16, whatever the compute type, so the logits are compared on transformers' model with each
such layer replaced by an f32 one of the weights that bitsandbytes itself decodes: bound 1e-4 (sums of 256 terms in another order). The distance of transformers as
it is gets printed, and is bounded by a tenth of the logits' size; so is LLM.int8() as it is, where bitsandbytes rounds activations to 8 bits. What int8 folders hold is
compared too (row scales to the last bit, codes but for ties of f16 products), and pw's logits on the weights that they stand for, of experts too.
"""
import argparse
import copy
import json
import os
import tempfile
import warnings

import bitsandbytes as bnb
import bitsandbytes.functional as F
import numpy as np
import torch
from safetensors.torch import load_file, save_file

warnings.filterwarnings("ignore")
from transformers import AutoModelForCausalLM, BitsAndBytesConfig  # noqa: E402
from transformers.utils import logging  # noqa: E402

from check_gguf import folder, pw  # noqa: E402

logging.set_verbosity_error()


def ours(model, ids, at, *more):
    json.dump([int(i) for i in ids], open(at + "/ids.json", "w"))
    pw("score", model, "--ids", at + "/ids.json", "--logits", at + "/logits.npy", "--device", "cpu", "-q", "--force", *more)
    return np.load(at + "/logits.npy")


def theirs(m, ids):
    with torch.no_grad():
        return m(torch.tensor([[int(i) for i in ids]])).logits[0].float().numpy()


def widen(m):
    """Every 4-bit layer as an f32 one of the weights that bitsandbytes decodes."""
    for parent in list(m.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, bnb.nn.Linear4bit):
                state = child.weight.quant_state
                state.dtype = torch.float32          # else they are rounded to the type of the base, which pw does not do on the processor
                w = F.dequantize_4bit(child.weight.data, state)
                plain = torch.nn.Linear(w.shape[1], w.shape[0], bias=False)
                plain.weight = torch.nn.Parameter(w.reshape(child.out_features, child.in_features).float(), requires_grad=False)
                setattr(parent, name, plain)
    return torch.nn.Module.float(m)


def decoded8(hf, quantised, out):
    """The folder hf with the weights that an int8 folder holds: row scales / 127 times codes, in f32. Gives also what is an int8 weight."""
    os.makedirs(out)
    for n in os.listdir(hf):
        if not n.endswith(".safetensors"):
            open(out + "/" + n, "w").write(open(hf + "/" + n).read())
    x = load_file(quantised + "/model.safetensors")
    codes = {k: (v, x[k.removesuffix("weight") + "SCB"]) for k, v in x.items() if v.dtype == torch.int8}
    wide = {k: (codes[k][0].float() * (codes[k][1] / 127)[:, None] if k in codes else x[k].float()) for k in load_file(hf + "/model.safetensors")}
    save_file({k: v.contiguous() for k, v in wide.items()}, out + "/model.safetensors", metadata={"format": "pt"})
    return codes


def int8(hf, folder, ids, at, what):
    """Codes and row scales are those that bitsandbytes makes of each weight (which it rounds to f16 before; pw does not, so they are compared where that changes nothing), and the logits of pw are those of transformers in f32 on the weights they stand for."""
    wide, base = folder + "-wide", load_file(hf + "/model.safetensors")
    codes = decoded8(hf, folder, wide)
    for k, (c, scale) in codes.items():
        want, absmax, _ = F.int8_vectorwise_quant(base[k].half())
        exact = base[k].half().double() * 127 / absmax.double()[:, None]
        tie = ((exact - exact.floor()) - 0.5).abs() <= 127 / 2048      # on the processor bitsandbytes multiplies in f16, pw in f32
        off = (c.int() - want.int()).abs()
        assert torch.equal(scale, absmax) and bool(((off == 0) | ((off == 1) & tie)).all()) and int(off.sum()) <= c.numel() // 1000, \
            "%s: %s: %d codes and %d row scales are not those of bitsandbytes" % (what, k, (c != want).sum(), (scale != absmax).sum())
    d = float(np.abs(theirs(AutoModelForCausalLM.from_pretrained(wide, dtype=torch.float32), ids) - ours(folder, ids, at)).max())
    print("bnb int8 %-45s codes and scales of %d linears are those of bitsandbytes, logits within %.2g on the decoded weights" % (what, len(codes), d))
    assert d <= 1e-4, "%s: a logit differs by %g" % (what, d)
    return d


def stored_as(hf, out, dtype):
    os.makedirs(out)
    for n in ("tokenizer.json", "tokenizer_config.json"):
        open(out + "/" + n, "w").write(open(hf + "/" + n).read())
    c = json.load(open(hf + "/config.json"))
    c["torch_dtype"] = str(dtype)[6:]
    json.dump(c, open(out + "/config.json", "w"))
    save_file({k: v.to(dtype) for k, v in load_file(hf + "/model.safetensors").items()}, out + "/model.safetensors", metadata={"format": "pt"})


FP4_BETWEEN = torch.tensor([0.00260417, 0.0859375, 0.20833333, 0.29166667, 0.4166667, 0.583333, 0.8333333])


def same_codes(x, y, base, kind):
    """FP4 has two codes of zero, 0 and 8. Between two values bitsandbytes decides by constants on CUDA, as pw does, and by distances on the processor, which come to another
    end within a few ulps."""
    x, y = (torch.stack([t.flatten() >> 4, t.flatten() & 15], 1).flatten() for t in (x, y))
    if kind == "fp4":
        blocks = base.flatten().float().reshape(-1, 64)
        unit = (blocks / blocks.abs().amax(1, keepdim=True)).abs().flatten()
        tie = ((unit[:, None] - FP4_BETWEEN).abs() <= 5e-7).any(1)
        x, y = (torch.where((t == 8) | tie, 0, t) for t in (x, y))
    return torch.equal(x, y)


def same_file(a, b, base, kind):
    """Codes and scales to the last bit. Scales of scales: torch's mean of them, in f32 and in an order of its own, may be off by its last bits, and a scale's code by one where it is a tie."""
    x, y = load_file(a + "/model.safetensors"), load_file(b + "/model.safetensors")
    assert x.keys() == y.keys(), sorted(x.keys() ^ y.keys())
    for k in x:
        if k.endswith("__nf4") or k.endswith("__fp4"):
            p, q = (json.loads(bytes(t[k].tolist())) for t in (x, y))
            assert abs(p.pop("nested_offset", 0) - q.pop("nested_offset", 0)) <= 1e-6 and p == q, k
        elif k.endswith(".nested_absmax"):
            assert torch.allclose(x[k], y[k], rtol=1e-6, atol=0), k
        elif k.endswith(".absmax") and x[k].dtype == torch.uint8:
            d = (x[k].int() - y[k].int()).abs()
            assert d.max() <= 1 and d.sum() <= 1 + d.numel() // 100, k
        elif x[k].dtype == torch.uint8:
            assert same_codes(x[k], y[k], base[k], kind), k
        else:
            assert x[k].dtype == y[k].dtype and torch.equal(x[k], y[k]), k
    return len(x)


def experts(rng, family, at):
    hf, joined, worst = at + "/hf", at + "/joined", 0.0
    folder(hf, rng, "tests/fixtures/train_golden/model", family)
    ids, base = rng.integers(0, 60, 60), load_file(hf + "/model.safetensors")
    AutoModelForCausalLM.from_pretrained(hf, dtype=torch.float32).save_pretrained(joined, save_original_format=False)
    assert any(k.endswith("experts.gate_up_proj") for k in load_file(joined + "/model.safetensors"))
    for kind, double in (("nf4", False), ("nf4", True), ("fp4", False)):
        more = ["-q", "--type", kind] + (["--double-quant"] if double else [])
        name = "%s %s%s" % (family, kind, " double" if double else "")
        stored, own, every, parted = ("%s/%s-%s-%d" % (at, n, kind, double) for n in ("stored", "own", "every", "parted"))
        pw("quant", hf, "-o", stored, "--experts", "stored", *more)
        q = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type=kind, bnb_4bit_use_double_quant=double, bnb_4bit_compute_dtype=torch.float32)
        AutoModelForCausalLM.from_pretrained(hf, quantization_config=q, dtype=torch.float32).save_pretrained(own)
        same = same_file(stored, own, base, kind)
        m = AutoModelForCausalLM.from_pretrained(stored, dtype=torch.float32)
        d = float(np.abs(theirs(widen(m), ids) - ours(stored, ids, at)).max())
        pw("quant", hf, "-o", every, *more)
        pw("quant", joined, "-o", parted, *more)
        same_file(every, parted, base, kind)
        x, codes = load_file(every + "/model.safetensors"), 0
        for k in (k for k in base if ".experts." in k):
            want, state = F.quantize_4bit(base[k], quant_type=kind, compress_statistics=double)
            assert same_codes(x[k], want, base[k], kind) and (double or torch.equal(x[k + ".absmax"], state.absmax)), "%s: not the codes of bitsandbytes" % k
            codes += 1
        worst = max(worst, d)
        assert d <= 1e-4, "%s: a logit differs by %g" % (name, d)
        print("bnb %-24s experts stored: %d tensors as transformers writes them, logits within %.2g; quantised: codes of %d experts' linears as bitsandbytes makes them" % (name, same, d, codes))
    stored_as(hf, at + "/f16", torch.float16)
    pw("quant", at + "/f16", "-o", at + "/every8", "-q", "--type", "int8")
    return max(worst, int8(at + "/f16", at + "/every8", ids, at, "written by pw of float16: %s, experts too" % family))


def main(seed):
    rng = np.random.default_rng(seed)
    worst = 0.0
    with tempfile.TemporaryDirectory() as at:
        hf, half = at + "/hf", at + "/bf16"
        folder(hf, rng, "tests/fixtures/train_golden/model")
        stored_as(hf, half, torch.bfloat16)
        ids = rng.integers(0, json.load(open(hf + "/config.json"))["vocab_size"], 60)
        def compare(m, out, what):
            a = ours(out, ids, at)
            d = float(np.abs(theirs(widen(copy.deepcopy(m)), ids) - a).max())   # first: running it packs the codes anew
            raw = theirs(m, ids)
            print("bnb %-60s logits within %.2g on the decoded weights; transformers as it is: %.2g of %.1f" % (what, d, np.abs(raw - a).max(), np.abs(a).max()))
            assert d <= 1e-4, "%s: a logit differs by %g" % (what, d)
            assert np.abs(raw - a).max() <= 0.1 * np.abs(a).max()
            return d

        for base, dtype in ((hf, torch.float32), (half, torch.bfloat16)):
            for kind, double in (("nf4", False), ("nf4", True), ("fp4", False), ("fp4", True)):
                out = "%s/w-%s-%s-%d" % (at, os.path.basename(base), kind, double)
                pw("quant", base, "-o", out, "--type", kind, "-q", *(["--double-quant"] if double else []))
                worst = max(worst, compare(AutoModelForCausalLM.from_pretrained(out, dtype=dtype), out, "written by pw: %s %s of %s" % (kind, "double" if double else "", str(dtype)[6:])))
        for kind in ("nf4", "fp4"):
            for double in (False, True):
                for storage in (torch.uint8, torch.bfloat16, torch.float16, torch.float32):
                    out = "%s/r-%s-%d-%s" % (at, kind, double, str(storage)[6:])
                    q = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type=kind, bnb_4bit_use_double_quant=double, bnb_4bit_compute_dtype=torch.float32,
                                           bnb_4bit_quant_storage=storage)
                    m = AutoModelForCausalLM.from_pretrained(hf, quantization_config=q, dtype=torch.float32)
                    m.save_pretrained(out)
                    for n in ("tokenizer.json", "tokenizer_config.json"):
                        open(out + "/" + n, "w").write(open(hf + "/" + n).read())
                    worst = max(worst, compare(m, out, "written by transformers: %s %s stored as %s" % (kind, "double" if double else "", str(storage)[6:])))
        out = at + "/int8"
        m = AutoModelForCausalLM.from_pretrained(hf, quantization_config=BitsAndBytesConfig(load_in_8bit=True), dtype=torch.float32)
        m.save_pretrained(out)
        for n in ("tokenizer.json", "tokenizer_config.json"):
            open(out + "/" + n, "w").write(open(hf + "/" + n).read())
        a, b = theirs(m, ids), ours(out, ids, at)
        print("bnb LLM.int8() written by transformers: pw's logits within %.2g (transformers rounds activations to 8 bits)" % np.abs(a - b).max())
        assert np.abs(a - b).max() < 0.1 * np.abs(a).max()
        worst = max(worst, int8(hf, out, ids, at, "written by transformers"))
        stored_as(hf, at + "/f16", torch.float16)
        pw("quant", at + "/f16", "-o", at + "/w8", "--type", "int8", "-q")
        m = AutoModelForCausalLM.from_pretrained(at + "/w8", dtype=torch.float32)
        a, b = theirs(m, ids), ours(at + "/w8", ids, at)
        print("bnb int8 written by pw: transformers' logits within %.2g" % np.abs(a - b).max())
        assert np.abs(a - b).max() < 0.1 * np.abs(a).max()
        worst = max(worst, int8(at + "/f16", at + "/w8", ids, at, "written by pw of float16"))
    for family in ("mixtral", "qwen3-moe"):
        with tempfile.TemporaryDirectory() as at:
            worst = max(worst, experts(rng, family, at))
    print("bnb: largest difference of a logit (decoded weights, f32) %.3g" % worst)


if __name__ == "__main__":
    p = argparse.ArgumentParser()
    p.add_argument("--seed", type=int, default=1)
    main(p.parse_args().seed)
