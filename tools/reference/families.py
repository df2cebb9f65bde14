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


# In layers with experts: what their linears are called in published files, and where they hang.
EXPERTS = {"mixtral": ("block_sparse_moe", ("w1", "w3", "w2")), "qwen3-moe": ("mlp", ("gate_proj", "up_proj", "down_proj")),
           "qwen3-moe-joined": ("mlp", ("gate_proj", "up_proj", "down_proj"))}
SMALL = dict(hidden_size=16, intermediate_size=24, num_hidden_layers=2, head_dim=8)
T = transformers
# name: class of the config, what differs from COMMON, whether config.json is written in the spelling of older files
FAMILIES = {
    "qwen3": (T.Qwen3Config, dict(head_dim=10, tie_word_embeddings=True, rope_parameters=rope("default")), False),
    "gemma2": (T.Gemma2Config, dict(head_dim=14, sliding_window=9, query_pre_attn_scalar=20, attn_logit_softcapping=4.0, final_logit_softcapping=6.0,
                                    rope_parameters=rope("default")), True),
    "gemma3": (T.Gemma3TextConfig, dict(head_dim=12, num_hidden_layers=4, sliding_window=6, sliding_window_pattern=3, query_pre_attn_scalar=30,
                                        rope_parameters=dict(full_attention=dict(rope_type="linear", factor=4.0, rope_theta=1e6),
                                                             sliding_attention=dict(rope_type="default", rope_theta=1e4))), True),
    "gemma3-new": (T.Gemma3TextConfig, dict(SMALL, num_hidden_layers=3, sliding_window=6, sliding_window_pattern=2, query_pre_attn_scalar=8, tie_word_embeddings=False,
                                            final_logit_softcapping=5.0, rope_parameters=dict(
                                                full_attention=dict(rope_type="yarn", factor=3.0, rope_theta=1e5, original_max_position_embeddings=16),
                                                sliding_attention=dict(rope_type="default", rope_theta=5e3))), False),
    # A model of text and vision, in the layouts of published files and of save_original_format=False; the text part is what is compared.
    "gemma3-whole": (T.Gemma3Config, dict(SMALL, num_hidden_layers=3, sliding_window=6, sliding_window_pattern=2, query_pre_attn_scalar=8, rope_parameters=dict(
        full_attention=dict(rope_type="linear", factor=8.0, rope_theta=1e6), sliding_attention=dict(rope_type="default", rope_theta=1e4))), False),
    "gemma3-whole-new": (T.Gemma3Config, dict(SMALL, sliding_window=6, sliding_window_pattern=2, query_pre_attn_scalar=8, tie_word_embeddings=False, rope_parameters=dict(
        full_attention=dict(rope_type="default", rope_theta=1e6), sliding_attention=dict(rope_type="default", rope_theta=1e4))), False),
    "phi3": (T.Phi3Config, dict(hidden_size=32, original_max_position_embeddings=16, partial_rotary_factor=0.75,
                                rope_parameters=rope("longrope", short_factor=[1.0, 1.2, 1.5], long_factor=[1.1, 2.5, 4.0])), False),
    "phi3-window": (T.Phi3Config, dict(sliding_window=7, rope_parameters=rope("default")), True),
    "phi3-su": (T.Phi3Config, dict(hidden_size=32, num_hidden_layers=2, original_max_position_embeddings=16, sliding_window=12,
                                   rope_parameters=rope("su", original_max_position_embeddings=16, short_factor=[1.0, 1.2, 1.5, 2.0], long_factor=[1.0, 2.5, 3.0, 4.0])), True),
    "mistral": (T.MistralConfig, dict(SMALL, sliding_window=8, rope_parameters=rope("default")), True),
    "qwen2-window": (T.Qwen2Config, dict(hidden_size=32, intermediate_size=24, num_hidden_layers=2, use_sliding_window=True, sliding_window=8, max_window_layers=1, rope_parameters=rope(
        "yarn", factor=4.0, original_max_position_embeddings=16)), True),
    "mixtral": (T.MixtralConfig, dict(SMALL, num_local_experts=4, num_experts_per_tok=2, sliding_window=None, rope_parameters=rope("default")), True),
    "qwen3-moe": (T.Qwen3MoeConfig, dict(SMALL, num_hidden_layers=3, head_dim=10, num_experts=6, num_experts_per_tok=3, moe_intermediate_size=12, norm_topk_prob=True,
                                         mlp_only_layers=[1], tie_word_embeddings=True, rope_parameters=rope("default")), True),
    "qwen3-moe-joined": (T.Qwen3MoeConfig, dict(SMALL, head_dim=8, num_experts=5, num_experts_per_tok=2, moe_intermediate_size=20, decoder_sparse_step=2,
                                                rope_parameters=rope("default")), False),
    "llama31": (T.LlamaConfig, dict(SMALL, tie_word_embeddings=True, rope_parameters=rope(
        "llama3", factor=4.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=16)), True),
    "llama-yarn": (T.LlamaConfig, dict(SMALL, rope_parameters=rope("yarn", factor=4.0, original_max_position_embeddings=16, mscale=0.7, mscale_all_dim=1.3,
                                                                   beta_fast=6.0, beta_slow=1.5, truncate=False)), False),
    "llama-yarn-factor": (T.LlamaConfig, dict(SMALL, rope_parameters=rope("yarn", factor=8.0, original_max_position_embeddings=8, attention_factor=1.7)), True),
    "llama-linear": (T.LlamaConfig, dict(SMALL, rope_parameters=rope("linear", factor=2.5)), True),
    "llama-dynamic": (T.LlamaConfig, dict(SMALL, max_position_embeddings=14, rope_parameters=rope("dynamic", factor=3.0)), False),
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
    config["partial_rotary_factor"] = r.pop("partial_rotary_factor", 1.0)
    config["rope_scaling"] = r if r.get("rope_type", "default") != "default" else None
    if config["rope_scaling"] and config["model_type"] != "gemma3_text":    # whose files have always said rope_type
        config["rope_scaling"]["type"] = config["rope_scaling"].pop("rope_type")
    for key in ("layer_types", "dtype"):
        config.pop(key, None)
    config["torch_dtype"] = "bfloat16"
    return config


class PerExpert(torch.nn.Module):
    """A half made of experts with a linear for each, as published files have them and as peft can adapt them; transformers 5 joins them when it loads."""

    def __init__(self, joined, names):
        super().__init__()
        self.gate, self.names = joined.gate, names
        up_down = joined.experts.gate_up_proj.data, joined.experts.down_proj.data
        self.act = joined.experts.act_fn
        self.experts = torch.nn.ModuleList()
        for gate_up, down in zip(*up_down):
            expert = torch.nn.Module()
            for name, weight in zip(names, (*gate_up.chunk(2), down)):
                linear = torch.nn.Linear(weight.shape[1], weight.shape[0], bias=False)
                linear.weight.data = weight.clone()
                setattr(expert, name, linear)
            self.experts.append(expert)

    def forward(self, h):
        x = h.reshape(-1, h.shape[-1])
        _, weights, chosen = self.gate(x)
        out = torch.zeros_like(x)
        for e, expert in enumerate(self.experts):
            token, place = torch.where(chosen == e)
            gate, up, down = (getattr(expert, n) for n in self.names)
            out = out.index_add(0, token, down(self.act(gate(x[token])) * up(x[token])) * weights[token, place, None])
        return out.reshape(h.shape)


def per_expert(model, name):
    where, names = EXPERTS[name]
    for layer in model.model.layers:
        if not hasattr(layer.mlp, "experts"):
            continue
        half = PerExpert(layer.mlp, names)
        del layer.mlp
        setattr(layer, where, half)
        if where != "mlp":
            layer.__dict__["mlp"] = half      # found there first, and no second name of the module
    model.config.model_type = "per_expert"    # or peft would look for the joined parameters
    return model


def make_model(folder, name, seed):
    kind, extra, old = FAMILIES[name]
    torch.manual_seed(seed)
    config = {**COMMON, **extra}
    if kind is T.Gemma3Config:
        vision = dict(hidden_size=8, intermediate_size=12, num_hidden_layers=1, num_attention_heads=2, image_size=28, patch_size=14)
        config = dict(text_config=config, vision_config=vision, mm_tokens_per_image=4, image_token_index=1000, boi_token_index=1001, eoi_token_index=1002,
                      tie_word_embeddings=extra.get("tie_word_embeddings", True))
    config = kind(**config)
    model = transformers.AutoModelForCausalLM.from_config(config)
    for p in model.parameters():        # norms and biases too, so that leaving one out shows
        p.data = (p.data + 0.1 * torch.randn_like(p)).to(torch.bfloat16)
    model.to(torch.bfloat16).save_pretrained(folder, save_original_format=not name.endswith(("-joined", "-whole-new")))
    (folder / "generation_config.json").unlink(missing_ok=True)
    (folder / "model.safetensors").chmod(0o644)
    written = json.loads((folder / "config.json").read_text())
    written.pop("transformers_version", None)
    if "sliding_window_pattern" in extra:
        written["sliding_window_pattern"] = extra["sliding_window_pattern"]
    if old:
        written = older(written)
    (folder / "config.json").write_text(json.dumps(written, indent=1, sort_keys=True) + "\n")


def load(folder):
    # Loaded again: casting a model to bf16 rounds its rotary frequencies too, and they would stay rounded.
    return transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()


def logprobs(model, ids):
    with torch.no_grad():
        model(torch.tensor([ids[:1]]), use_cache=False)     # with dynamic rope scaling a model keeps the base of the longest sequence until a short one comes
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
            cached = model.generate(torch.tensor([ids[:begin]]), max_new_tokens=n, do_sample=False, eos_token_id=None, pad_token_id=0, output_logits=True, return_dict_in_generate=True)
            tops = [torch.log_softmax(x[0].double(), -1).topk(2).values for x in cached.logits]
            made = dict(prompt=ids[:begin], tokens=ids[begin:], margin=least, same_as_generate=cached.sequences[0].tolist() == ids)
            if (getattr(model.config, "rope_parameters", None) or {}).get("rope_type") != "dynamic":
                return made
            # What is cached keeps the base of the length at which it came: another continuation than that of whole passes.
            if min((a - b).item() for a, b in tops) > 2e-3 and not made["same_as_generate"]:
                return dict(made, cached=cached.sequences[0].tolist()[begin:])
    raise SystemExit("no prompt without near ties")


def train(folder, name, seed, rows):
    base = load(folder)
    if name in EXPERTS:
        ids, want = torch.tensor([rows[0][0]]), base(torch.tensor([rows[0][0]]), use_cache=False).logits
        base = per_expert(base, name)
        assert (base(ids, use_cache=False).logits - want).abs().max() < 1e-5
    model = peft.get_peft_model(base, peft.LoraConfig(r=2, lora_alpha=6, lora_dropout=0.0, target_modules=r"model\.language_model\..*_proj" if "-whole" in name else "all-linear", task_type="CAUSAL_LM"))
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
    if not isinstance(c["target_modules"], str):
        c["target_modules"] = sorted(c["target_modules"])    # a set, whose order is another each time
    path.write_text(json.dumps(c, indent=1) + "\n")
    model.train()
    number = sum(len(ids) - learnt for ids, learnt in rows)
    total = 0.0
    for ids, learnt in rows:
        more = dict(token_type_ids=torch.zeros(1, len(ids), dtype=torch.long)) if "-whole" in name else {}    # none of an image
        logits = model(input_ids=torch.tensor([ids]), use_cache=False, **more).logits[0, :-1].float()
        targets = torch.tensor([t if i + 1 >= learnt else -100 for i, t in enumerate(ids[1:])])
        loss = torch.nn.functional.cross_entropy(logits, targets, ignore_index=-100, reduction="sum") / number
        loss.backward()
        total += loss.item()
    grads = {"grad." + n.removeprefix("base_model.model.").replace(".default.weight", "").replace("model.language_model.", "model."): p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
    return total, grads


def make(folder, name, seed, lengths=(5, 40, 16, 23), generate=12, prompt=9):
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
    loss, grads = train(folder, name, seed, rows)
    tensors.update(grads)
    save_file(tensors, folder / "golden.safetensors")
    (folder / "golden.safetensors").chmod(0o644)
    golden = dict(sequences=sequences, generation=generation, train=dict(rows=[dict(ids=ids, learnt=learnt) for ids, learnt in rows], loss=loss))
    (folder / "golden.json").write_text(json.dumps(golden) + "\n")
    return golden
