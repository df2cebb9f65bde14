"""Every model family against transformers and peft, live: models, adapters and texts of a fresh seed (families.py).

Needs the packages of requirements.txt. Run from the repository. The comparisons and their bounds are those of tests/test_families.c, which reads the
folder named by PW_FAMILIES in place of the committed fixtures.
"""
import argparse
import json
import os
import pathlib
import subprocess
import sys
import tempfile

import numpy as np
import peft
import torch

import families


def saved(folder, ids):
    """Norms and the embedding of the text part, trained whole by peft: the differences of what pw reads, and of what it writes and peft reads."""
    names = ["model.language_model.norm", "model.language_model.embed_tokens", "input_layernorm", "q_norm"]
    model = peft.get_peft_model(families.load(folder), peft.LoraConfig(r=2, lora_alpha=4, target_modules=r"model\.language_model\..*_proj", modules_to_save=names, task_type="CAUSAL_LM"))
    for n, p in model.named_parameters():
        if p.requires_grad:
            p.data = p.data + 0.1 * torch.randn_like(p)
    want = families.logprobs(model.eval(), ids)
    model.save_pretrained(folder / "saved")
    (folder / "ids.json").write_text(json.dumps(ids))
    run = lambda *a: subprocess.run(["./pw", *a, "--quiet"], check=True, capture_output=True)
    run("score", folder, "--adapter", folder / "saved", "--ids", folder / "ids.json", "--logits", folder / "logits.npy", "--device", "cpu")
    run("lora", "export", folder / "saved", "--to", "peft", "--model", folder, "-o", folder / "saved-again")
    again = families.logprobs(peft.PeftModel.from_pretrained(families.load(folder), folder / "saved-again").eval(), ids)
    return [(torch.log_softmax(torch.tensor(np.load(folder / "logits.npy")).double(), -1) - want).abs().max().item(), (again - want).abs().max().item()]


def whole(folder):
    """A model of text and vision: what pw merges opens as a model of text and is the whole model with the adapter; what pw writes for it, peft loads there."""
    run = lambda *a: subprocess.run(["./pw", *a, "--quiet"], check=True, capture_output=True)
    run("lora", "merge", folder, "--adapter", folder / "adapter", "-o", folder / "merged", "--type", "f32")
    run("lora", "export", folder / "adapter", "--to", "peft", "--model", folder, "-o", folder / "again")
    ids = json.loads((folder / "golden.json").read_text())["sequences"][1]
    want = families.logprobs(peft.PeftModel.from_pretrained(families.load(folder), folder / "adapter").eval(), ids)
    merged = families.load(folder / "merged")
    again = peft.PeftModel.from_pretrained(families.load(folder), folder / "again").eval()
    pairs = sum("lora_A" in k for k in again.state_dict())
    trained = saved(folder, ids)
    apart = [(families.logprobs(m, ids) - want).abs().max().item() for m in (merged, again)]
    print("%s: merged, a %s: largest difference %.3g; written again, %d modules, %.3g; norms and embedding trained whole, read by pw %.3g, written by pw %.3g (bound 2e-4)"
          % (folder.name, type(merged).__name__, apart[0], pairs, apart[1], *trained))
    apart += trained
    return int(type(merged).__name__ != "Gemma3ForCausalLM" or not max(apart) <= 2e-4 or pairs != 7 * merged.config.num_hidden_layers)


def main():
    a = argparse.ArgumentParser()
    a.add_argument("--seed", type=int, required=True)
    seed = a.parse_args().seed % 10**6
    torch.set_num_threads(1)
    build = subprocess.run(["make", "-s", "--no-print-directory", "print-B"], check=True, capture_output=True, text=True).stdout.strip()
    subprocess.run(["make", "-s", "pw", build + "/tests/test_families"], check=True)
    with tempfile.TemporaryDirectory() as at:
        for i, name in enumerate(families.FAMILIES):
            families.make(pathlib.Path(at) / name, name, seed + i)
        p = subprocess.run([build + "/tests/test_families"], env={**os.environ, "PW_FAMILIES": at}, capture_output=True, text=True)
        print(p.stdout + p.stderr)
        bad = sum(whole(pathlib.Path(at) / name) for name in families.FAMILIES if "-whole" in name)
    return p.returncode or bad


if __name__ == "__main__":
    sys.exit(main())
