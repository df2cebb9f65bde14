#!/usr/bin/env python3
"""Makes tests/fixtures/bnb_folders/*: one tiny Llama as transformers + bitsandbytes store it, once for each bnb_4bit_quant_storage, and LLM.int8();
and a Mixtral, whose attention alone they quantise.
tests/test_bnb_folders.c compares. Needs: pip install torch transformers bitsandbytes safetensors accelerate. Run from the repository.
"logits.safetensors" beside each: ids and the logits of transformers' model with each such layer replaced by an f32 one of the decoded weights
(bitsandbytes itself multiplies on the processor in bf16, and LLM.int8() rounds activations). Widths are multiples of 64: bitsandbytes 0.50.2 decodes others wrongly on
the processor (a (64, 96) matrix comes back with errors of 2.0 where the flat blocks that it wrote give 0.45)."""
import copy
import os
import shutil
import warnings

warnings.filterwarnings("ignore")
import bitsandbytes as bnb
import torch
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, BitsAndBytesConfig, LlamaConfig, LlamaForCausalLM, MixtralConfig, MixtralForCausalLM

from check_bnb import widen

OUT = "tests/fixtures/bnb_folders"
CASES = [("uint8", "nf4", False), ("bfloat16", "nf4", True), ("float16", "fp4", True), ("float32", "fp4", False)]


def widen8(m):
    for parent in list(m.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, bnb.nn.Linear8bitLt):
                w = child.weight.data.float() * (child.weight.SCB.float()[:, None] / 127)
                plain = torch.nn.Linear(w.shape[1], w.shape[0], bias=False)
                plain.weight = torch.nn.Parameter(w, requires_grad=False)
                setattr(parent, name, plain)
    return torch.nn.Module.float(m)


def main():
    torch.manual_seed(4)
    base = "/tmp/bnb-folders-base"
    c = LlamaConfig(vocab_size=64, hidden_size=64, intermediate_size=128, num_hidden_layers=1, num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=64,
                    initializer_range=0.15, tie_word_embeddings=False, bos_token_id=1, eos_token_id=2)
    LlamaForCausalLM(c).to(torch.bfloat16).save_pretrained(base)
    ids = torch.randint(0, 64, (1, 12))
    sparse = "/tmp/bnb-folders-sparse"
    for name, kind, double in CASES + [("int8", None, False), ("mixtral", "nf4", False)]:
        if name == "mixtral":
            MixtralForCausalLM(MixtralConfig(vocab_size=64, hidden_size=64, intermediate_size=64, num_hidden_layers=1, num_attention_heads=4, num_key_value_heads=2, num_local_experts=3,
                                             num_experts_per_tok=2, max_position_embeddings=64, initializer_range=0.15, tie_word_embeddings=False, bos_token_id=1,
                                             eos_token_id=2)).to(torch.bfloat16).save_pretrained(sparse)
        q = BitsAndBytesConfig(load_in_8bit=True) if kind is None else BitsAndBytesConfig(
            load_in_4bit=True, bnb_4bit_quant_type=kind, bnb_4bit_use_double_quant=double, bnb_4bit_compute_dtype=torch.bfloat16, bnb_4bit_quant_storage=getattr(torch, name, torch.uint8))
        m = AutoModelForCausalLM.from_pretrained(sparse if name == "mixtral" else base, quantization_config=q, dtype=torch.bfloat16)
        out = "%s/%s" % (OUT, name)
        shutil.rmtree(out, ignore_errors=True)
        m.save_pretrained(out)
        with torch.no_grad():
            logits = (widen8 if kind is None else widen)(copy.deepcopy(m))(ids).logits[0].float().contiguous()
        save_file({"ids": ids[0].int(), "logits": logits}, out + "/logits.safetensors")
        if os.path.exists(out + "/generation_config.json"):
            os.remove(out + "/generation_config.json")
        print(name, "logits up to %.2f" % logits.abs().max())
    shutil.rmtree(base)
    shutil.rmtree(sparse)


if __name__ == "__main__":
    main()
