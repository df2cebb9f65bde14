#!/usr/bin/env python3
"""Reference training runs of DoRA, PiSSA and trained modules beside LoRA, by PyTorch, transformers and peft in f32, over the model and rows of train_fixtures.py.

    adapter_fixtures.py begins NAME TRAIN OUT  adds to what make wrote the run NAME of those that leave no adapters
    adapter_fixtures.py biases TRAIN OUT  adds to what make wrote the runs on a Qwen2, whose biases are trained: OUT/model-bias, and bias and bias-all beside the others
    adapter_fixtures.py dora-experts MIXTRAL OUT  writes OUT/dora-experts, an adapter of the Mixtral, and its logits, OUT/dora-experts.json
    adapter_fixtures.py joined FAMILIES OUT  writes OUT/joined-NAME, adapters of joined experts (target_parameters) of the models in FAMILIES, and their logits, OUT/joined.json
    adapter_fixtures.py make TRAIN OUT    TRAIN: a folder made by train_fixtures.py. Writes OUT/golden.json (losses and gradient norms of 20 steps), and
                                          OUT/init-NAME and OUT/final-NAME, adapters before and after, for each NAME

Names: dora and dora-nf4 (base quantised to NF4 with double quantisation, then dequantised); saved, plain LoRA with modules_to_save: norms, the embedding and
the head; pissa, peft's own initialisation, whose base becomes the residual; loftq, on the NF4 base, the pair being peft's decomposition of what quantising took away; loftq3, the
same after three rounds and without double quantisation, whose base is another one, as in peft's loftq_init, which wants a card (these three leave no adapters). OUT/logits.json: logits on the first row after training. Not part of make check, which reads the committed results.
"""
import json
import pathlib
import shutil
import sys

import bitsandbytes.functional as bnb
import peft
import tokenizers
import torch
import transformers

import families
import train_fixtures as tf

NORMS = ["embed_tokens", "lm_head", "norm", "input_layernorm"]
RUNS = {"dora": dict(lr=3e-3, warmup=4, schedule="cosine", weight_decay=0.01, clip=1.0),
        "dora-nf4": dict(lr=2e-3, warmup=3, schedule="linear", weight_decay=0.0, clip=0.5),
        "saved": dict(lr=3e-3, warmup=4, schedule="cosine", weight_decay=0.0, clip=1.0),
        "pissa": dict(lr=3e-3, warmup=4, schedule="cosine", weight_decay=0.0, clip=1.0),
        "loftq": dict(lr=2e-3, warmup=3, schedule="linear", weight_decay=0.0, clip=0.5),
        "loftq3": dict(lr=2e-3, warmup=3, schedule="linear", weight_decay=0.0, clip=0.5)}
BIASES = {"bias": dict(lr=3e-3, warmup=4, schedule="cosine", weight_decay=0.0, clip=1.0),          # lora_only, all linears
          "bias-all": dict(lr=3e-3, warmup=4, schedule="cosine", weight_decay=0.0, clip=1.0)}      # all, pairs on two linears alone
BEGINS = ("pissa", "loftq", "loftq3")


def config_of(name):
    if name == "bias-all":
        return peft.LoraConfig(r=4, lora_alpha=8, lora_dropout=0.0, target_modules=["q_proj", "up_proj"], bias="all", task_type="CAUSAL_LM")
    more = dict(bias="lora_only") if name == "bias" else dict(use_dora=True) if name.startswith("dora") else dict(modules_to_save=NORMS) if name == "saved" else dict(init_lora_weights="pissa") if name == "pissa" else {}
    return peft.LoraConfig(r=4, lora_alpha=4 if name.startswith("loftq") else 8, lora_dropout=0.0, target_modules=["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"],
                           task_type="CAUSAL_LM", **more)


def load(folder, name):
    if name.startswith("bias"):
        return transformers.Qwen2ForCausalLM.from_pretrained(folder / "model-bias", dtype=torch.float32, attn_implementation="eager")
    base = transformers.LlamaForCausalLM.from_pretrained(folder / "model", dtype=torch.float32, attn_implementation="eager")
    if name.endswith("nf4") or name == "loftq":
        tf.quantise(base)
    return base


def start(train, out, name):
    torch.manual_seed(23)
    model = peft.get_peft_model(load(train, name), config_of(name))
    for n, p in model.named_parameters():
        if "lora_A" in n or "lora_B" in n:
            p.data = 0.1 * torch.randn_like(p)
        elif "magnitude" in n:
            p.data *= 1 + 0.1 * torch.randn_like(p)      # not what the rows have
        elif p.requires_grad:
            p.data += 0.02 * torch.randn_like(p)
    tf.save(model, out / f"init-{name}")


def begun(train, name):
    """Initialised as the name says, nothing else changed."""
    model = peft.get_peft_model(load(train, name), config_of(name))
    if name == "loftq":
        stored = dict(transformers.LlamaForCausalLM.from_pretrained(train / "model", dtype=torch.float32).named_modules())
        for n, m in model.named_modules():
            if hasattr(m, "lora_A"):
                pair = peft.utils.loftq_utils._low_rank_decomposition(stored[n.removeprefix("base_model.model.")].weight.data - m.base_layer.weight.data, reduced_rank=4)
                m.lora_A["default"].weight.data, m.lora_B["default"].weight.data = pair["R"].contiguous(), pair["L"].contiguous()
    if name == "loftq3":
        for m in model.modules():
            if hasattr(m, "lora_A"):
                w, rest = m.base_layer.weight.data.clone(), m.base_layer.weight.data.clone()
                for _ in range(3):
                    packed, state = bnb.quantize_4bit(rest.reshape(-1), blocksize=64, quant_type="nf4")      # flat: see tf.quantise
                    q = bnb.dequantize_4bit(packed, state).float().reshape(w.shape)
                    pair = peft.utils.loftq_utils._low_rank_decomposition(w - q, reduced_rank=4)
                    rest = w - pair["L"] @ pair["R"]
                m.base_layer.weight.data = q
                m.lora_A["default"].weight.data, m.lora_B["default"].weight.data = pair["R"].contiguous(), pair["L"].contiguous()
    return model


def run(train, out, name, o, data):
    model = begun(train, name) if name in BEGINS else peft.PeftModel.from_pretrained(load(train, name), out / f"init-{name}", is_trainable=True)
    params = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(params, lr=o["lr"], betas=(0.9, 0.999), eps=1e-8, weight_decay=o["weight_decay"], foreach=False)
    passes = [data[i:i + tf.BATCH] for i in range(0, len(data), tf.BATCH)]
    steps = [passes[i:i + tf.ACCUMULATE] for i in range(0, len(passes), tf.ACCUMULATE)]
    log = []
    model.train()
    for i in range(tf.STEPS):
        step = steps[i % len(steps)]
        number = sum(sum(learnt) for p in step for _, learnt in p)
        total = 0.0
        optimizer.zero_grad()
        for rows in step:
            for ids, learnt in rows:
                logits = model(input_ids=torch.tensor([ids])).logits[0, :-1].float()
                targets = torch.tensor([t if l else -100 for t, l in zip(ids[1:], learnt[1:])])
                if (targets >= 0).any():
                    loss = torch.nn.functional.cross_entropy(logits, targets, ignore_index=-100, reduction="sum") / number
                    loss.backward()
                    total += loss.item()
        norm = torch.nn.utils.clip_grad_norm_(params, o["clip"]).item()
        for g in optimizer.param_groups:
            g["lr"] = tf.rate(o, i)
        optimizer.step()
        log.append({"step": i + 1, "loss": total, "grad_norm": norm, "lr": tf.rate(o, i), "trained_tokens": number,
                    "tokens": sum(len(ids) for p in step for ids, _ in p)})
    if name not in BEGINS:
        tf.save(model, out / f"final-{name}")
    model.eval()
    with torch.no_grad():
        return log, model(input_ids=torch.tensor([data[0][0]])).logits[0].tolist()


def begins(name, train, out):
    train, out = pathlib.Path(train), pathlib.Path(out)
    t = tokenizers.Tokenizer.from_file(str(train / "model" / "tokenizer.json"))
    data = [tf.encode(t, json.loads(line)) for line in (train / "rows.jsonl").read_text().splitlines()]
    golden, logits = (json.loads((out / f).read_text()) for f in ("golden.json", "logits.json"))
    log, logits[name] = run(train, out, name, RUNS[name], data)
    golden[name] = {"recipe": RUNS[name], "log": log}
    print(name, [round(s["loss"], 4) for s in log])
    (out / "golden.json").write_text(json.dumps(golden, indent=1) + "\n")
    (out / "logits.json").write_text(json.dumps(logits) + "\n")


def biases(train, out):
    train, out = pathlib.Path(train), pathlib.Path(out)
    model = out / "model-bias"
    shutil.rmtree(model, ignore_errors=True)
    torch.manual_seed(29)
    config = transformers.Qwen2Config(vocab_size=64, hidden_size=24, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, intermediate_size=40, max_position_embeddings=64,
                                      bos_token_id=0, eos_token_id=1, initializer_range=0.15, rms_norm_eps=1e-5, tie_word_embeddings=False, use_sliding_window=False)
    base = transformers.Qwen2ForCausalLM(config)
    for p in base.parameters():
        p.data += 0.05 * torch.randn_like(p)
    base.save_pretrained(model)
    (model / "generation_config.json").unlink(missing_ok=True)
    (model / "model.safetensors").chmod(0o644)
    path = model / "config.json"
    c = json.loads(path.read_text())
    rope = c.pop("rope_parameters", None)
    if rope:
        c["rope_theta"] = rope["rope_theta"]
    path.write_text(json.dumps(c, indent=2) + "\n")
    for f in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(train / "model" / f, model / f)
    t = tokenizers.Tokenizer.from_file(str(train / "model" / "tokenizer.json"))
    data = [tf.encode(t, json.loads(line)) for line in (train / "rows.jsonl").read_text().splitlines()]
    golden, logits = (json.loads((out / f).read_text()) for f in ("golden.json", "logits.json"))
    for name, o in BIASES.items():
        start(out, out, name)
        log, logits[name] = run(out, out, name, o, data)
        golden[name] = {"recipe": o, "log": log}
        print(name, [round(s["loss"], 4) for s in log])
    (out / "golden.json").write_text(json.dumps(golden, indent=1) + "\n")
    (out / "logits.json").write_text(json.dumps(logits) + "\n")


JOINED = {"mixtral": ("mixtral", dict(target_modules=["q_proj"], target_parameters=["mlp.experts.gate_up_proj", "mlp.experts.down_proj"])),
          "qwen3": ("qwen3-moe-joined", dict(target_modules=[], target_parameters=["experts.gate_up_proj", "experts.down_proj"], use_rslora=True)),
          "up": ("mixtral", dict(target_modules=["v_proj"], target_parameters=["experts.gate_up_proj"])),
          "down": ("qwen3-moe-joined", dict(target_modules=["o_proj"], target_parameters=["experts.down_proj"]))}


def joined(families, out):
    families, out = pathlib.Path(families), pathlib.Path(out)
    all = {"ids": [1, 5, 9, 3, 7, 2, 11, 4, 8, 6]}
    for name, (model, more) in JOINED.items():
        torch.manual_seed(31)
        base = transformers.AutoModelForCausalLM.from_pretrained(families / model, dtype=torch.float32, attn_implementation="eager")
        m = peft.get_peft_model(base, peft.LoraConfig(r=2, lora_alpha=6, lora_dropout=0.0, task_type="CAUSAL_LM", **more))
        for n, p in m.named_parameters():
            if "lora_" in n:
                p.data = 0.3 * torch.randn_like(p)
        tf.save(m, out / f"joined-{name}")
        path = out / f"joined-{name}" / "adapter_config.json"
        c = json.loads(path.read_text())
        c["target_parameters"] = sorted(c["target_parameters"])
        path.write_text(json.dumps(c, indent=2) + "\n")
        m.eval()
        with torch.no_grad():
            all[name] = m(input_ids=torch.tensor([all["ids"]])).logits[0].tolist()
    (out / "joined.json").write_text(json.dumps(all) + "\n")


def dora_experts(family, out):
    """DoRA on experts that are modules of their own, as in transformers 4; on the joined ones of transformers 5 peft 0.21.2 refuses it."""
    out = pathlib.Path(out)
    all = {"ids": [1, 5, 9, 3, 7, 2, 11, 4, 8, 6]}
    torch.manual_seed(37)
    base = families.per_expert(families.load(pathlib.Path(family)), "mixtral")
    m = peft.get_peft_model(base, peft.LoraConfig(r=2, lora_alpha=6, lora_dropout=0.0, task_type="CAUSAL_LM", use_dora=True, target_modules=["q_proj", "w1", "w2", "w3"]))
    for n, p in m.named_parameters():
        if "lora_magnitude" in n:
            p.data *= 1 + 0.3 * torch.randn_like(p)
        elif "lora_" in n:
            p.data = 0.3 * torch.randn_like(p)
    tf.save(m, out / "dora-experts")
    m.eval()
    with torch.no_grad():
        all["dora"] = m(input_ids=torch.tensor([all["ids"]]), use_cache=False).logits[0].tolist()
    (out / "dora-experts.json").write_text(json.dumps(all) + "\n")


def make(train, out):
    train, out = pathlib.Path(train), pathlib.Path(out)
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    t = tokenizers.Tokenizer.from_file(str(train / "model" / "tokenizer.json"))
    rows = [json.loads(line) for line in (train / "rows.jsonl").read_text().splitlines()]
    data = [tf.encode(t, r) for r in rows]
    golden, logits = {}, {"ids": data[0][0]}
    for name, o in RUNS.items():
        if name not in BEGINS:
            start(train, out, name)
        log, logits[name] = run(train, out, name, o, data)
        golden[name] = {"recipe": o, "log": log}
        print(name, [round(s["loss"], 4) for s in log])
    (out / "golden.json").write_text(json.dumps(golden, indent=1) + "\n")
    (out / "logits.json").write_text(json.dumps(logits) + "\n")


if __name__ == "__main__":
    torch.set_num_threads(1)
    if len(sys.argv) == 4 and sys.argv[1] == "make":
        make(sys.argv[2], sys.argv[3])
    elif len(sys.argv) == 5 and sys.argv[1] == "begins":
        begins(sys.argv[2], sys.argv[3], sys.argv[4])
    elif len(sys.argv) == 4 and sys.argv[1] == "biases":
        biases(sys.argv[2], sys.argv[3])
    elif len(sys.argv) == 4 and sys.argv[1] == "joined":
        joined(sys.argv[2], sys.argv[3])
    elif len(sys.argv) == 4 and sys.argv[1] == "dora-experts":
        dora_experts(sys.argv[2], sys.argv[3])
    else:
        sys.exit(__doc__)
