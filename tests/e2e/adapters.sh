#!/usr/bin/env bash
# Adapter and model files between artefacts: verify, export, merge, with the demo's base.
. tests/e2e/prelude.bash

printf '{"prompt":"Q: red?","completion":" A: a colour."}\n{"prompt":"Q: two?","completion":" A: a number."}\n{"prompt":"Q: blue?","completion":" A: a colour too."}\n' > d.jsonl
printf 'model: "%s"\nadapter: {kind: lora, r: 4, alpha: 8}\ndata: {train: d.jsonl, max_length: 64}\ntrain: {steps: 6, batch_size: 2, lr: 1e-2}\noutput: run\n' "$BASE" > r.yaml
rc 0 pw train r.yaml --quiet

# ---- verify ----
json pw lora verify "$BASE" "$BASE" --json -q; has out '"max_logit_diff":0,"kl":0,'; has out '"first_difference":null'; empty err
json pw lora verify "$BASE" "$BASE+run/adapter" --json -q; has out '"first_difference":{"kind":"token","prompt":'
rc 1 pw lora verify "$BASE" "$BASE+run/adapter" --json -q --tolerance 1e-3; has out '"first_difference":{'; has err 'a logit by'
json pw lora verify "$BASE" "$BASE+run/adapter:0" --json -q --tolerance 0; has out '"max_logit_diff":0,'
cp -r run/adapter 'a+b'; json pw lora verify "$BASE+run/adapter" "$BASE+a+b" --json -q --tolerance 0
json pw lora verify "$BASE" "$BASE" --right-type nf4 --prompts d.jsonl --json -q; has out '"prompts":3,'
json pw lora verify "$BASE" "$BASE" --type nf4 --prompts d.jsonl --json -q --tolerance 0
printf 'one line\n\nand another\n' > p.txt; json pw lora verify "$BASE" "$BASE" --prompts p.txt --json -q; has out '"prompts":2,'
printf '{"text":"x"}\n{"words":1}\n' > bad.jsonl; refused 1 'bad.jsonl: line 2: expected messages, prompt or text' pw lora verify "$BASE" "$BASE" --prompts bad.jsonl -q
printf '{"messages":[{"role":"user","content":"hi"}]}\n' > m.jsonl; refused 3 'has none' pw lora verify "$BASE" "$BASE" --prompts m.jsonl -q
refused 1 'the tokenizers differ: token 0' pw lora verify "$BASE" "$ROOT/tests/fixtures/train_golden/model" -q
refused 1 'RIGHT' pw lora verify "$BASE" "$BASE+none" -q
refused 2 'MODEL+ADAPTER' pw lora verify "$BASE" "$BASE" --adapter run/adapter
refused 3 'does not fit' pw lora verify "$BASE" "$BASE" --memory 1MiB -q

# ---- export: the same logits from the GGUF adapter on the GGUF file, and back ----
rc 0 pw quant "$BASE" -o base.gguf --type f32 --format gguf -q
json pw lora export run/adapter --to gguf -o a.gguf --json -q; has out '"form":"gguf"'
json pw lora info a.gguf --json; has out '"modules":'
json pw lora verify "$BASE+run/adapter" "base.gguf+a.gguf" --json -q --tolerance 1e-3; has out '"first_difference":null'
json pw lora export a.gguf --to peft -o back --model "$BASE" --json -q
json pw lora verify "$BASE+run/adapter" "$BASE+back" --json -q --tolerance 1e-4
refused 3 'exists' pw lora export run/adapter --to gguf -o a.gguf -q; rc 0 pw lora export run/adapter:0.5 --to gguf -o a.gguf -q --force --type f16
refused 2 '--to FORM is missing' pw lora export run/adapter -o x.gguf
refused 2 'f32 or f16' pw lora export run/adapter --to gguf -o x.gguf --type q8_0
refused 2 'does not say what its base is' pw lora export "$ROOT/tests/fixtures/gguf/lora/lora.gguf" --to peft -o x
refused 1 'is for another base' pw lora export run/adapter --to gguf -o x.gguf --model "$ROOT/tests/fixtures/train_golden/model"
checks=$((checks + 1)); [ ! -e x ] && [ ! -e x.gguf ] || fail "a refused export left something"

# ---- Ollama ----
cp -r "$BASE" chatty; cat > chatty/chat_template.jinja <<'END'
{% if messages[0].role != 'system' %}<|start|>system
Be kind.<|end|>
{% endif %}{% for m in messages %}<|start|>{{ m.role }}
{{ m.content }}<|end|>
{% endfor %}{% if add_generation_prompt %}<|start|>assistant
{% endif %}
END
printf '{"do_sample":true,"temperature":0.6,"top_p":0.9}' > chatty/generation_config.json
json pw lora export run/adapter --to ollama -o o --model chatty --json -q --type q8_0; has out '"has_template":true'
has o/Modelfile 'FROM ./base.gguf'; has o/Modelfile 'ADAPTER ./adapter.gguf'; has o/Modelfile '{{ else if eq .Role "user" }}<|start|>user'; has o/Modelfile 'SYSTEM """Be kind."""'
has o/Modelfile 'PARAMETER stop "<|end|>"'; has o/Modelfile 'PARAMETER temperature 0.6'
json pw lora verify "$BASE+run/adapter" o/base.gguf+o/adapter.gguf --json -q
printf "{{ strftime_now('%%Y') }}{%% for m in messages %%}{{ m.content }}{%% endfor %%}" > chatty/chat_template.jinja
rc 0 pw lora export run/adapter --to ollama -o o2 --model chatty --ctx 200; has err 'no TEMPLATE is written'; has err 'the date'; has o2/Modelfile 'PARAMETER num_ctx 200'
checks=$((checks + 1)); ! grep -q TEMPLATE o2/Modelfile || fail 'a TEMPLATE was guessed'
rc 0 pw lora export run/adapter --to ollama -o o3 --model base.gguf -q; has o3/Modelfile "FROM $PWD/base.gguf"; gone_base=$(ls o3); checks=$((checks + 1)); [ "$gone_base" = "$(printf 'Modelfile\nadapter.gguf')" ] || fail "o3 holds $gone_base"
rc 0 pw lora export run/adapter --to ollama -o o4 --from llama3.2 -q; has o4/Modelfile 'FROM llama3.2'
refused 2 'stays as it is' pw lora export run/adapter --to ollama -o o5 --model base.gguf --type q8_0 -q
refused 2 'belongs to --to ollama' pw lora export run/adapter --to gguf -o o5 --from x
checks=$((checks + 1)); [ ! -e o5 ] || fail "a refused export left a folder"

# ---- merge: compared before it appears ----
json pw lora merge "$BASE" --adapter run/adapter -o merged --json -q; has out '"format":"hf","type":"f32"'; has out '"first_difference":null'
json pw lora verify "$BASE+run/adapter" merged --json -q --tolerance 1e-3
json pw lora merge "$BASE" --adapter run/adapter:0.5 -o merged.gguf --json -q --type q8_0 --prompts p.txt; has out '"format":"gguf","type":"q8_0"'; has out '"prompts":2,'
json pw lora merge merged.gguf --adapter run/adapter -o again.gguf --json -q --no-check --force; has out '"kl":null'
json pw lora merge base.gguf --adapter a.gguf -o m32.gguf --json -q --type f32; json pw lora verify base.gguf+a.gguf m32.gguf --json -q --tolerance 1e-3
refused 2 'nothing is merged into 4-bit weights' pw lora merge "$BASE" --adapter run/adapter -o x --type nf4
refused 2 'into GGUF files' pw lora merge "$BASE" --adapter run/adapter -o x --type q4_K
refused 1 'line 2: expected messages' pw lora merge "$BASE" --adapter run/adapter -o x --prompts bad.jsonl -q
refused 1 'line 2: expected messages' pw lora merge "$BASE" --adapter run/adapter -o x.gguf --prompts bad.jsonl -q
rc 0 pw lora init "$BASE" -o fresh -q; refused 1 'merging changed nothing' pw lora merge "$BASE" --adapter fresh -o x.gguf -q
checks=$((checks + 1)); [ ! -e x ] && [ ! -e x.gguf ] && ! ls | grep -q part || fail "a refused merge left something: $(ls)"

# ---- --memory: the comparison is planned before anything is written; what merging and comparing take stays below the limit ----
least() { grep -oE -- '--memory [0-9]+ is the least' err | grep -oE '[0-9]+'; }
for out in lim lim.gguf; do
  refused 3 'while planning the comparison of adapter and merged model: it does not fit into --memory: planned' pw lora merge "$BASE" --adapter run/adapter -o $out --memory 1MiB -q
  has err '; or --no-check leaves the comparison away'; checks=$((checks + 1)); [ ! -e $out ] && ! ls | grep -q part || fail "a refused merge left something: $(ls)"
  limit=$(($(least) + 1048576))                  # the program's own pages differ from run to run
  rc 0 pw lora merge "$BASE" --adapter run/adapter -o $out --memory $limit -v; has out 'adapter against merged model: '
  peak=$(grep -oE '^at most [0-9]+' err | grep -oE '[0-9]+$'); checks=$((checks + 1)); [ "${peak:-$limit}" -lt $limit ] || fail "merging: $peak bytes were resident, at most $limit"
done
refused 3 'it does not fit into --memory: planned' pw lora merge "$BASE" --adapter run/adapter -o x --memory 1MiB --no-check -q
# ---- and adapters are counted before they are read ----
rc 0 pw lora init "$BASE" -o wide --set adapter.r=512 -q
refused 3 'KV cache' pw run "$BASE" -p x -n 2 --memory $(pw run "$BASE" -p x -n 2 --memory 1MiB 2>&1 | grep -oE -- '--memory [0-9]+' | grep -oE '[0-9]+' | awk '{ print $1 + 1048576 }'); limit=$(($(least) + 1048576))
rc 0 pw run "$BASE" -p x -n 2 --memory $limit
refused 3 'while loading the adapter wide: it does not fit into --memory: planned' pw run "$BASE" --adapter wide -p x -n 2 --memory $limit; has err "the adapter's file "

# ---- DoRA with norms of its own: no GGUF adapter, but a GGUF model ----
rc 0 pw train r.yaml --set adapter.kind=dora --set adapter.modules_to_save=norm --set output=dora --quiet
rc 1 pw lora export dora/adapter --to gguf -o x.gguf -q; has err 'pw lora merge'; checks=$((checks + 1)); [ ! -e x.gguf ] || fail 'a DoRA adapter was written as GGUF'
refused 1 'was trained whole, which :0.5 cannot multiply' pw run "$BASE" --adapter dora/adapter:0.5 -p x -n 1 -q
refused 1 'was trained whole, which :0.5 cannot multiply' pw lora merge "$BASE" --adapter dora/adapter:0.5 -o x.gguf -q
refused 1 'was trained whole, which :0.5 cannot multiply' pw lora export dora/adapter:0.5 --to peft -o x -q
json pw lora merge "$BASE" --adapter dora/adapter -o dora.gguf --type f32 --json -q; json pw lora verify "$BASE+dora/adapter" dora.gguf --json -q --tolerance 1e-3

# ---- LoftQ of two rounds: the run's own base, which the adapter names and belongs to ----
rc 0 pw train r.yaml --set quant.type=nf4 --set adapter.init=loftq --set adapter.loftq_iter=2 --set output=lq --quiet
json pw lora info lq/adapter --json; has out '"lq/base"'
json pw model info lq/base --json; has out 'nf4'
rc 0 pw run lq/base --adapter lq/adapter -p 'Q: red?' -n 2
refused 1 'it was made on lq/base' pw run "$BASE" --type nf4 --adapter lq/adapter -p 'Q: red?' -n 2

# ---- a fresh adapter is what training starts from: the same bytes, and the result says what it is for ----
zero() { local name=$1; shift; rc 0 pw train r.yaml --set train.lr=0 --set train.steps=1 --set output="zero-$name" -q "$@"
         json pw lora init "$BASE" -o "begun-$name" --set adapter.r=4 --set adapter.alpha=8 --json -q "$@"
         checks=$((checks + 1)); cmp -s "zero-$name/adapter/adapter_model.safetensors" "begun-$name/adapter_model.safetensors" || fail "lora init $*: other bytes than pw train starts from"; }
zero pissa --set adapter.init=pissa_niter_4 --seed 5; has out '"init":"pissa_niter_4","note":"for the unchanged base'; has out '"r":8,'; json pw lora verify "$BASE" "$BASE+begun-pissa" --json -q --tolerance 1e-3
zero loftq --set adapter.init=loftq --type nf4; has out 'for the base as nf4'; has out '"type":"nf4"'
zero rounds --set adapter.init=loftq --set adapter.loftq_iter=2 --type nf4; has out '"name":"begun-rounds/base"'; has out 'written beside it, begun-rounds/base'
rc 0 pw run begun-rounds/base --adapter begun-rounds -p 'Q: red?' -n 2; refused 1 'it was made on begun-rounds/base' pw run "$BASE" --type nf4 --adapter begun-rounds -p 'Q: red?' -n 2
json pw lora init "$BASE" -o begun-own --set adapter.layers=0-0 --set 'adapter.rank_pattern={q_proj: 2}' --set adapter.init_from=null --json -q; has out '"init":"default","note":null'; has begun-own/adapter_config.json 'layers.0.self_attn.q_proj": 2'
refused 2 'expected default | gaussian | pissa | pissa_niter_N | loftq, got eva' pw lora init "$BASE" -o x --set adapter.init=eva; has err 'pissa begins from the weights alone'; has err 'adapter.init_from'
refused 2 'loftq needs quant.type' pw lora init "$BASE" -o x --set adapter.init=loftq; has err '--type nf4'
refused 2 'pissa needs adapter.dropout: 0' pw lora init "$BASE" -o x --set adapter.init=pissa --set adapter.dropout=0.1
refused 2 'there is no adapter to write' pw lora init "$BASE" -o x --set adapter.kind=full
refused 2 'an adapter does not hold it' pw lora init "$BASE" -o x --set adapter.lora_plus=16
refused 2 'expected adapter.KEY=VALUE' pw lora init "$BASE" -o x --set train.lr=1; refused 2 'the nearest is adapter.init' pw lora init "$BASE" -o x --set adapter.inti=pissa
refused 3 'does not fit' pw lora init "$BASE" -o x --set adapter.init=pissa --memory 1MiB; refused 1 'none/adapter_config.json' pw lora init "$BASE" -o x --set adapter.init_from=none
checks=$((checks + 1)); [ ! -e x ] && ! ls -A | grep -q part || fail "a refused init left something: $(ls -A)"

# ---- the same model in every form ----
rc 0 pw quant "$BASE" -o nf4 --type nf4 --double-quant -q
for form in "$BASE" base.gguf nf4; do json pw model info "$form" --json; has out '"family":"llama","architecture":"LlamaForCausalLM"'; has out '"rope_scaling":"none"'; has out '"special":[{"id":0,"text":"<|start|>"}'; has out '"stops":[1]'; has out '"fits":[{"use":"run as stored","bytes":'; has out '"use":"train an adapter as stored"'; has out '"planned_for":"'; checks=$((checks + 1)); [ "$form" != nf4 ] || ! grep -q 'adapter on nf4' out || fail "a 4-bit base is quantised again"; done
rc 0 pw model info nf4; has out 'special      <|start|> 0 <|end|> 1'; has out 'bitsandbytes nf4'

echo "$checks checks, $failures failures"
[ $failures = 0 ]
