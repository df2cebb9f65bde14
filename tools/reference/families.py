"""Tiny random models of every family, and what transformers and peft in f32 make of them: log-probabilities over the whole vocabulary, a greedy
continuation, the loss of an adapter and its gradients. Used by family_fixtures.py (committed fixtures) and check_families.py (live, fresh seeds).

A folder holds config.json and model.safetensors (bf16), adapter/ (PEFT, all-linear), golden.json (ids) and golden.safetensors (f32):
logprobs.I (T, V) of sequence I, grad.MODULE.lora_A/B of the loss. The loss is the sum over the trained tokens of the training rows over their number.
"""
import json
import pathlib

import peft
import torch
import transformers
from safetensors.torch import save_file

VOCAB = 40
COMMON = dict(vocab_size=VOCAB, hidden_size=24, intermediate_size=40, num_hidden_layers=3, num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=64,
              initializer_range=0.15, bos_token_id=1, eos_token_id=2, pad_token_id=None)


def rope(kind, **more):
    return dict(rope_type=kind, rope_theta=10000.0, **more)


# name: class of the config, what differs from COMMON, whether config.json is written in the spelling of older files
FAMILIES = {
    "qwen3": (transformers.Qwen3Config, dict(head_dim=10, tie_word_embeddings=True, rope_parameters=rope("default")), False),
    "gemma2": (transformers.Gemma2Config, dict(head_dim=14, sliding_window=9, query_pre_attn_scalar=20, attn_logit_softcapping=4.0, final_logit_softcapping=6.0,
                                               rope_parameters=rope("default")), True),
}


def seeded(seed):
    g = torch.Generator()
    g.manual_seed(seed)
    return g


def ids_of(g, n):
    return [1] + torch.randint(3, VOCAB, (n - 1,), generator=g).tolist()


def older(config):
    """The keys of files that were written before transformers 5."""
    r = config.pop("rope_parameters", None) or {}
    if "sliding_attention" in r:
        config["rope_local_base_freq"] = r["sliding_attention"]["rope_theta"]
        r = r["full_attention"]
    config["rope_theta"] = r.pop("rope_theta", 10000.0)
    if r.pop("partial_rotary_factor", 1.0) != 1.0:
        raise ValueError("give partial_rotary_factor in another way")
    config["rope_scaling"] = r if r.get("rope_type", "default") != "default" else None
    if config["rope_scaling"]:
        config["rope_scaling"]["type"] = config["rope_scaling"].pop("rope_type")
    for key in ("layer_types", "dtype"):
        config.pop(key, None)
    config["torch_dtype"] = "bfloat16"
    return config


def make_model(folder, name, seed):
    kind, extra, old = FAMILIES[name]
    torch.manual_seed(seed)
    config = kind(**{**COMMON, **extra})
    model = transformers.AutoModelForCausalLM.from_config(config)
    for p in model.parameters():        # norms and biases too, so that leaving one out shows
        p.data = (p.data + 0.1 * torch.randn_like(p)).to(torch.bfloat16)
    model.to(torch.bfloat16).save_pretrained(folder)
    (folder / "generation_config.json").unlink(missing_ok=True)
    (folder / "model.safetensors").chmod(0o644)
    written = json.loads((folder / "config.json").read_text())
    written.pop("transformers_version", None)
    if old:
        written = older(written)
    (folder / "config.json").write_text(json.dumps(written, indent=1, sort_keys=True) + "\n")


def load(folder):
    # Loaded again: casting a model to bf16 rounds its rotary frequencies too, and they would stay rounded.
    return transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()


def logprobs(model, ids):
    with torch.no_grad():
        return torch.log_softmax(model(torch.tensor([ids]), use_cache=False).logits[0].double(), -1).float()


def greedy(model, seed, n, prompt):
    """A prompt whose continuation is never a near tie, that is, whose tokens do not depend on the last bits."""
    for attempt in range(200):
        ids = ids_of(seeded(1000 * seed + attempt), prompt)
        begin, least = len(ids), 1.0
        for _ in range(n):
            top = logprobs(model, ids)[-1].topk(2)
            least = min(least, (top.values[0] - top.values[1]).item())
            ids.append(top.indices[0].item())
        if least > 2e-3 and 2 not in ids[begin:]:
            cached = model.generate(torch.tensor([ids[:begin]]), max_new_tokens=n, do_sample=False, eos_token_id=None, pad_token_id=0)[0].tolist()
            return dict(prompt=ids[:begin], tokens=ids[begin:], margin=least, same_as_generate=cached == ids)
    raise SystemExit("no prompt without near ties")


def train(folder, seed, rows):
    base = load(folder)
    model = peft.get_peft_model(base, peft.LoraConfig(r=3, lora_alpha=6, lora_dropout=0.0, target_modules="all-linear", task_type="CAUSAL_LM"))
    g = seeded(seed + 77)
    for n, p in model.named_parameters():
        if "lora_" in n:
            p.data = 0.15 * torch.randn(p.shape, generator=g)
    for c in model.peft_config.values():
        c.base_model_name_or_path = "tiny"
    model.save_pretrained(folder / "adapter")
    (folder / "adapter" / "README.md").unlink(missing_ok=True)
    (folder / "adapter" / "adapter_model.safetensors").chmod(0o644)
    path = folder / "adapter" / "adapter_config.json"
    c = json.loads(path.read_text())
    c["target_modules"] = sorted(c["target_modules"])    # a set, whose order is another each time
    path.write_text(json.dumps(c, indent=1) + "\n")
    model.train()
    number = sum(len(ids) - learnt for ids, learnt in rows)
    total = 0.0
    for ids, learnt in rows:
        logits = model(input_ids=torch.tensor([ids]), use_cache=False).logits[0, :-1].float()
        targets = torch.tensor([t if i + 1 >= learnt else -100 for i, t in enumerate(ids[1:])])
        loss = torch.nn.functional.cross_entropy(logits, targets, ignore_index=-100, reduction="sum") / number
        loss.backward()
        total += loss.item()
    grads = {"grad." + n.removeprefix("base_model.model.").replace(".default.weight", ""): p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
    return total, grads


def make(folder, name, seed, lengths=(5, 23), generate=12, prompt=6):
    """lengths: of the sequences whose log-probabilities are kept; below and above every window. The last two are trained on."""
    folder = pathlib.Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    make_model(folder, name, seed)
    model = load(folder)
    g = seeded(seed + 1)
    sequences = [ids_of(g, n) for n in lengths]
    rows = [(ids, len(ids) // 3) for ids in sequences[-2:]]
    tensors = {f"logprobs.{i}": logprobs(model, ids).contiguous() for i, ids in enumerate(sequences)}
    generation = greedy(model, seed, generate, prompt)
    loss, grads = train(folder, seed, rows)
    tensors.update(grads)
    save_file(tensors, folder / "golden.safetensors")
    (folder / "golden.safetensors").chmod(0o644)
    golden = dict(sequences=sequences, generation=generation, train=dict(rows=[dict(ids=ids, learnt=learnt) for ids, learnt in rows], loss=loss))
    (folder / "golden.json").write_text(json.dumps(golden) + "\n")
    return golden
