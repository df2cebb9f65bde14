"""bitsandbytes folders against transformers and bitsandbytes on the processor, live, in both directions.

Needs: pip install torch transformers bitsandbytes numpy safetensors accelerate. Run from the repository.
  written by pw         nf4 and fp4, double quantisation or not, int8, of an f32 and of a bf16 base: transformers loads them and gives the logits of pw (f32)
  written by transformers, read by pw    nf4 and fp4, nested or not, bnb_4bit_quant_storage uint8, bfloat16, float16, float32; LLM.int8()
bitsandbytes 0.50 multiplies 4-bit weights on the processor in bf16, whatever the compute type, so the logits are compared on transformers' model with each
such layer replaced by an f32 one of the weights that bitsandbytes itself decodes: bound 1e-4 (sums of 256 terms in another order). The distance of transformers as
it is gets printed, and is bounded by a tenth of the logits' size; so is LLM.int8(), where bitsandbytes rounds activations to 8 bits.
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


def as_bf16(hf, out):
    from safetensors.torch import load_file, save_file
    os.makedirs(out)
    for n in ("tokenizer.json", "tokenizer_config.json"):
        open(out + "/" + n, "w").write(open(hf + "/" + n).read())
    c = json.load(open(hf + "/config.json"))
    c["torch_dtype"] = "bfloat16"
    json.dump(c, open(out + "/config.json", "w"))
    save_file({k: v.to(torch.bfloat16) for k, v in load_file(hf + "/model.safetensors").items()}, out + "/model.safetensors", metadata={"format": "pt"})


def main(seed):
    rng = np.random.default_rng(seed)
    worst = 0.0
    with tempfile.TemporaryDirectory() as at:
        hf, half = at + "/hf", at + "/bf16"
        folder(hf, rng, "tests/fixtures/train_golden/model")
        as_bf16(hf, half)
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
        pw("quant", hf, "-o", at + "/w8", "--type", "int8", "-q")
        m = AutoModelForCausalLM.from_pretrained(at + "/w8", dtype=torch.float32)
        a, b = theirs(m, ids), ours(at + "/w8", ids, at)
        print("bnb int8 written by pw: transformers' logits within %.2g" % np.abs(a - b).max())
        assert np.abs(a - b).max() < 0.1 * np.abs(a).max()
    print("bnb: largest difference of a logit (4 bits, f32) %.3g" % worst)


if __name__ == "__main__":
    p = argparse.ArgumentParser()
    p.add_argument("--seed", type=int, default=1)
    main(p.parse_args().seed)
