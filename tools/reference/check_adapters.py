"""Adapters of PEFT in every form, live: peft writes one with fresh random values, pw gives its logits; pw writes it again, peft gives the same logits.

Needs: pip install torch transformers peft safetensors. Run from the repository. The base is the tiny Llama of tests/fixtures/train_golden, as it is and with its embedding as its head.
"""
import argparse
import json
import os
import subprocess
import tempfile

import numpy as np
import peft
import torch
import transformers

MODEL = "tests/fixtures/train_golden/model"
ALL = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
CASES = {
    "lora": dict(target_modules=ALL),
    "rank-stabilised": dict(target_modules=ALL, use_rslora=True),
    "dora": dict(target_modules=ALL, use_dora=True),
    "dora, rank-stabilised, some modules": dict(target_modules=["q_proj", "down_proj"], use_dora=True, use_rslora=True),
    "patterns": dict(target_modules=ALL, rank_pattern={"q_proj": 2, "layers.1.mlp.up_proj": 6}, alpha_pattern={"down_proj": 3}),
    "dora, patterns": dict(target_modules=ALL, use_dora=True, rank_pattern={"k_proj": 3}, alpha_pattern={"o_proj": 5}),
    "one layer": dict(target_modules=ALL, layers_to_transform=[1]),
    "layers 0 and 1, pattern of layers": dict(target_modules=["q_proj", "v_proj"], layers_to_transform=[0, 1], layers_pattern="layers"),
    "without k_proj": dict(target_modules=ALL, exclude_modules=["k_proj"]),
    "regular expressions": dict(target_modules=r".*\.(q|v)_proj", exclude_modules=r".*layers\.0\..*"),
    "an expression that begins with a star": dict(target_modules=".*(q|o|up)_proj", use_dora=True),
    "norms": dict(target_modules=ALL, modules_to_save=["norm"]),
    "dora, embedding, head": dict(target_modules=ALL, use_dora=True, modules_to_save=["embed_tokens", "lm_head"]),
    "tied, embedding": dict(target_modules=ALL, modules_to_save=["embed_tokens"]),
    "tied, head, norms": dict(target_modules=ALL, modules_to_save=["lm_head", "norm"]),
    "tied, embedding, head": dict(target_modules=ALL, modules_to_save=["embed_tokens", "lm_head"]),
}


def base(folder=MODEL):
    return transformers.LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager")


def logits(model, ids):
    model.eval()
    with torch.no_grad():
        return model(input_ids=torch.tensor([ids])).logits[0].numpy()


def pw(*args):
    r = subprocess.run(["./pw", *args], capture_output=True, text=True)
    assert r.returncode == 0, "pw %s: %s" % (" ".join(args), r.stderr)


def main(seed):
    torch.manual_seed(seed)
    worst = 0
    with tempfile.TemporaryDirectory() as at:
        ids = torch.randint(0, 64, (40,)).tolist()
        json.dump(ids, open(at + "/ids.json", "w"))
        model = base()
        model.config.tie_word_embeddings = True
        model.tie_weights()
        model.save_pretrained(at + "/tied")
        for i, (name, more) in enumerate(CASES.items()):
            folder = at + "/tied" if name.startswith("tied") else MODEL
            plain = logits(base(folder), ids)
            model = peft.get_peft_model(base(folder), peft.LoraConfig(r=4, lora_alpha=8, task_type="CAUSAL_LM", **more))
            for n, p in model.named_parameters():
                if "lora_A" in n or "lora_B" in n:
                    p.data = 0.2 * torch.randn_like(p)
                elif p.requires_grad:
                    p.data = p.data * (1 + 0.1 * torch.randn_like(p))
            theirs, one, two = logits(model, ids), "%s/one%d" % (at, i), "%s/two%d" % (at, i)
            model.save_pretrained(one)
            moved = float(np.abs(theirs - plain).max())
            assert moved > 0.05, "%s: the adapter hardly matters" % name
            pw("score", folder, "--ids", at + "/ids.json", "--logits", at + "/logits.npy", "--device", "cpu", "-q", "--force", "--adapter", one)
            read = float(np.abs(np.load(at + "/logits.npy") - theirs).max())
            pw("lora", "export", one, "--to", "peft", "-o", two, "--model", folder, "-q")
            back = float(np.abs(logits(peft.PeftModel.from_pretrained(base(folder), two), ids) - theirs).max())
            assert read <= 1e-4 and back <= 1e-4, "%s: logits differ by %g read by pw, by %g written by pw and read by peft" % (name, read, back)
            worst = max(worst, read, back)
            print("adapters %-36s read by pw %.2g, written by pw and read by peft %.2g (moves logits by up to %.2f)" % (name, read, back, moved))
    print("adapters: %d forms, largest difference of a logit %.3g" % (len(CASES), worst))


if __name__ == "__main__":
    p = argparse.ArgumentParser()
    p.add_argument("--seed", type=int, default=1)
    main(p.parse_args().seed)
