#!/usr/bin/env bash
# The conventions of the command line, from an installed copy and a folder with an odd name: stdout and stderr, exit codes, --json, --quiet,
# nearest names, outputs that are refused or cannot be written, two runs on one folder, interrupts, --memory.
. tests/e2e/prelude.bash
gone() { local f; for f in "$@"; do checks=$((checks + 1)); [ ! -e "$f" ] || fail "$f was left"; done; checks=$((checks + 1)); ! ls -A | grep -q '\.part$' || fail "left: $(ls -A | grep '\.part$')"; }

# ---- help and names ----
refused 2 'a command is missing' pw; has err 'usage: pw COMMAND'
rc 0 pw help; empty err; rc 0 pw --version; rc 0 pw help vote; has out 'pw vote import'; rc 0 pw vote rank --help; has out '--method'
refused 2 "did you mean 'pw train'" pw trian
refused 2 "did you mean 'pw vote import'" pw vote imprt l f
refused 2 'knows: new, import' pw vote
refused 2 'knows: list, show' pw recipe --json
refused 2 'did you mean --help?' pw train --hlep
refused 2 'did you mean --quiet?' pw eval run m --qiet
refused 2 'nearest is train.lr' pw train tiny-lora --set train.lrr=1
refused 2 'nearest is tiny-lora' pw recipe show tiny-lorra
refused 2 'did you mean nf4?' pw quant "$BASE" -o x --type nf5
refused 2 'a value is missing' pw run "$BASE" -p
refused 2 'not an integer' pw run "$BASE" -p a -n many
refused 2 'out of range' pw run "$BASE" -p a -n -1
refused 2 'too many arguments' pw model info "$BASE" more
gone x

# ---- one JSON document each ----
printf '{"prompt":"Q: red?","completion":" A: a colour."}\n{"prompt":"Q: two?","completion":" A: a number."}\n\n{"prompt":"Q: blue?","completion":" A: a colour too."}\n' > d.jsonl
printf 'model: "%s"\nadapter: {kind: lora, r: 4, alpha: 8}\ndata: {train: d.jsonl, max_length: 64}\ntrain: {steps: 6, batch_size: 2, lr: 1e-3, save_every: 2}\noutput: run\n' "$BASE" > r.yaml
json pw model info "$BASE" --json
json pw score "$BASE" --text "What is the hour of bread?" --json; has out '"logprobs":[null,'
json pw tokenize "$BASE" d.jsonl --json
json pw run "$BASE" -p "The fountain" -n 4 --json; has out '"finish":"length"'
json pw recipe list --json; json pw recipe show tiny-lora --json; json pw recipe docs --json; json pw recipe check r.yaml --json
json pw data check d.jsonl --model "$BASE" --json; has out '"errors":[]'
json pw plan r.yaml --json; has out '"fits":true'; checks=$((checks + 1)); grep -qE '"seconds_estimate":[0-9]' out || fail "no time estimated"
json pw plan r.yaml --json --memory 1MiB; has out '"fits":false'
json pw train r.yaml --dry-run --json; gone run
json pw lora init "$BASE" -o fresh --json; json pw lora info fresh --json
json pw eval list --json
json pw bench synthetic:tiny --device cpu --prompt 16,32 --gen 4 --batch 1,2 --train 2x16,24 --repeat 1 --json
has out '"train_tokens_per_s":'; has out '"decode_runs":[{"batch":1,"tokens":4,'; has out '"train_runs":[{"batch":2,"tokens":16,'
json pw bench "$BASE" --device cpu --prompt 0 --batch 0 --train 0 --repeat 1 --json; has out '"train_tokens_per_s":null'
refused 2 'expected numbers N or BxN from 1' pw bench synthetic:tiny --train 4y8
refused 2 'expected numbers from 1' pw bench synthetic:tiny --prompt 16,,8
refused 2 'sequences begin with the first --prompt' pw bench synthetic:tiny --prompt 0
refused 2 'there are synthetic:100m' pw bench synthetic:8t
refused 3 "while making synthetic:tiny: it does not fit into --memory" pw bench synthetic:tiny --device cpu --memory 1KiB
refused 3 "measuring the memory 512.00 MiB), at most 300.00 MiB" pw bench synthetic:tiny --device cpu --memory 300MiB --quiet
refused 3 ", training " "$ROOT/pw" bench synthetic:tiny --device simt --memory 1MiB --prompt 0 --batch 0 --train 256 --repeat 1 --quiet
# What a device says is in use while it trains is what was planned, within 2 %.
json "$ROOT/pw" bench synthetic:tiny --device simt --type nf4 --double-quant --prompt 0 --batch 0 --train 24 --checkpointing --repeat 1 --json --quiet
of() { grep -oE "\"$1\":[0-9]+" out | head -1 | grep -oE '[0-9]+$'; }
checks=$((checks + 1)); awk -v p="$(of planned_bytes)" -v m="$(of in_use_bytes)" 'BEGIN { exit !(m > 100000 && p >= 0.98 * m && p <= 1.02 * m) }' || fail "planned $(of planned_bytes), in use $(of in_use_bytes)"
# Layers that wait in host memory: the same bytes, less of the card, and what the plan takes when nothing else fits.
device=(--device simt --set quant.type=nf4 --set train.steps=1 --set train.batch_size=1 --set train.save_every=0 --set data.max_length=24 --json --quiet)
for how in least stream; do json "$ROOT/pw" train r.yaml "${device[@]}" --set output=$how --set train.memory=$how; done
checks=$((checks + 1)); cmp -s least/adapter/adapter_model.safetensors stream/adapter/adapter_model.safetensors || fail "streamed layers: another adapter"
checks=$((checks + 1)); [ "$(of planned_bytes)" = "$(of peak_bytes)" ] || fail "streamed layers: planned $(of planned_bytes), in use $(of peak_bytes)"
json "$ROOT/pw" plan r.yaml "${device[@]}" --set output=x --set train.memory=least; has out '"weights_on_host":false'; has out '"seconds_estimate":null'
limit=$(($(of peak_bytes) - 1))
json "$ROOT/pw" plan r.yaml "${device[@]}" --set output=x --memory $limit; has out '"fits":true'; has out '"weights_on_host":true'; has out '"layers_on_host":3'
json "$ROOT/pw" train r.yaml "${device[@]}" --set output=some --memory $limit
checks=$((checks + 1)); cmp -s least/adapter/adapter_model.safetensors some/adapter/adapter_model.safetensors || fail "some layers streamed: another adapter"
json pw train r.yaml --json --quiet; empty err
json pw entry build run -o entry.tar.zst --json
json pw entry check entry.tar.zst --json
json pw entry check entry.tar.zst --model "$BASE" --json --quiet; has out '"rescored":null'; empty err

# ---- documents of a benchmark; scores that were touched ----
refused 3 'no data under' pw eval explain mmlu --doc 0
mkdir -p data/colours data/mmlu; for a in 0 1 2; do printf '{"question":"Colour %s?","choices":["red","blue","green"],"answer":%s}\n' $a $a; done > data/colours/test.jsonl
json pw eval explain colours --doc 2 --data data --json; has out 'Colour 2?'
refused 2 '--doc' pw eval explain colours --doc 3 --data data
json pw eval run "$BASE" --tasks colours --data data --adapter run/adapter --with-base -o run/tuned.json --samples run/tuned.samples.jsonl --json --quiet
has out '"adapter":null,"n":3'; has out '"adapter":"run/adapter","n":3'
json pw entry build run -o scored.tar.zst --json; json pw entry check scored.tar.zst --model "$BASE" --json --quiet; has out '"documents":3,'
cp -r run forged; sed -i 's/"acc":{"value":[0-9.]*/"acc":{"value":0.6666666666666666/g' forged/tuned.json
rc 0 pw entry build forged -o forged.tar.zst; grep -q '"acc":{"value":0.6666' run/tuned.json || refused 1 'does not fit the samples' pw entry check forged.tar.zst --model "$BASE" --quiet
refused 3 'exists' pw eval run "$BASE" --tasks colours --data data -o run/tuned.json

# ---- rows that cannot be used ----
cp d.jsonl b.jsonl; printf '{"prompt":\n{"text":"x"}\n' >> b.jsonl
rc 1 pw data check b.jsonl --model "$BASE" --json --quiet; has out '"row":5,'; has out '"row":6,'
refused 1 'b.jsonl:5' pw train r.yaml --set data.train=b.jsonl --set output=y --quiet
: > none.jsonl; refused 3 'nothing to train on' pw train r.yaml --set data.train=none.jsonl --set output=y
printf '{"messages":[{"role":"user","content":"a"}]}\n' > m.jsonl; refused 1 'chat template' pw train r.yaml --set data.train=m.jsonl --set output=y
gone y

# ---- outputs: refused when there, whole or not at all ----
refused 3 'exists' pw train r.yaml; refused 3 'exists' pw lora init "$BASE" -o fresh; refused 3 'exists' pw entry build run -o entry.tar.zst
rc 0 pw train r.yaml --force --quiet
mkdir mine; touch mine/thesis; refused 3 'not a run folder' pw train r.yaml --set output=mine --force --quiet; checks=$((checks + 1)); [ "$(ls -A mine)" = thesis ] || fail "somebody's folder was touched"
refused 1 'none/q' pw quant "$BASE" -o none/q --type nf4
refused 1 '/proc/x' pw train r.yaml --set output=/proc/x --quiet
limit() { ( ulimit -f "$1"; shift; "$@" > out 2> err < /dev/null ); }
limit 300 pw quant "$BASE" -o full --type f32 --quiet; got=$?; checks=$((checks + 1)); [ $got = 1 ] || fail "quant onto a full disk"; empty out; has err 'File too large'
limit 300 pw lora merge "$BASE" --adapter run/adapter -o full --quiet; got=$?; checks=$((checks + 1)); [ $got = 1 ] || fail "merge onto a full disk"; empty out
limit 100 pw train r.yaml --set output=part --quiet; got=$?; checks=$((checks + 1)); [ $got = 1 ] || fail "training onto a full disk: exit $got"; empty out; has err 'step-2.h5'; has err 'File too large'
checks=$((checks + 1)); [ ! -e part/adapter ] && [ -z "$(ls -A part/checkpoints)" ] || fail "training onto a full disk left an output"
gone full
for command in "model info '$BASE' --json" "run '$BASE' -p a -n 3" "eval list" "help" "recipe show tiny-lora" "score '$BASE' --text a"; do rc 1 bash -c "pw $command > /dev/full"; has err 'stdout'; rc 1 bash -c "pw $command >&-"; done

# ---- devices and memory ----
refused 3 'cuda' pw run "$BASE" -p a --device cuda:0
refused 2 'gpu' pw run "$BASE" -p a --device gpu
rc 0 pw run "$BASE" -p a -n 2 --device auto; has err 'CPU'
for command in "run '$BASE' -p a -n 2" "score '$BASE' --text a" "eval run '$BASE' --tasks colours --data data"; do refused 3 'does not fit' bash -c "pw $command --memory 1MiB"; done
refused 3 'does not fit' pw train r.yaml --set output=y --memory 1MiB
rc 0 pw run "$BASE" -p a -n 2 --memory 1GiB
gone y

# ---- one process to a run folder ----
pw train r.yaml --set output=long --set train.steps=100000 --quiet > /dev/null 2> long.err & pid=$!
for _ in $(seq 100); do [ -s long/log.jsonl ] && break; sleep 0.1; done
refused 3 "in use by another process, $pid" pw train r.yaml --set output=long --set train.steps=100000 --resume
refused 3 'in use by another process' pw train r.yaml --set output=long --force
kill -INT $pid; wait $pid; got=$?; checks=$((checks + 1)); [ $got = 130 ] || fail "an interrupted training: exit $got"; has long.err 'state saved'
gone long/.lock
pw train r.yaml --set output=long --set train.steps=100000 --resume --quiet > /dev/null 2>&1 & pid=$!
sleep 1; kill -9 $pid; wait $pid 2> /dev/null
rc 0 pw train r.yaml --set output=long --force --quiet     # what the killed process left is in nobody's way
# ---- and to a sample log; killed and resumed: the same bytes ----
for i in $(seq 4000); do printf '{"question":"Colour %s?","choices":["red %s","blue","green"],"answer":%s}\n' $i $i $((i % 3)); done > data/colours/test.jsonl
score() { exec pw eval run "$BASE" --tasks colours --data data --quiet "$@"; }
( score --samples s.jsonl --limit 300 ) > /dev/null
( score --samples k.jsonl ) > /dev/null 2>&1 & pid=$!
for _ in $(seq 100); do [ -s k.jsonl.part ] && break; sleep 0.05; done
refused 3 "in use by another process, $pid" pw eval run "$BASE" --tasks colours --data data --samples k.jsonl --resume
kill -9 $pid; wait $pid 2> /dev/null; checks=$((checks + 1)); [ -s k.jsonl.part ] && [ ! -e k.jsonl ] || fail "a killed evaluation: no log, or a finished one"
mv k.jsonl.part all; head -150 all > k.jsonl.part; sed -n 151p all | head -c 40 >> k.jsonl.part      # a line that was cut off
rc 0 pw eval run "$BASE" --tasks colours --data data --samples k.jsonl --limit 300 --resume --quiet
checks=$((checks + 1)); cmp -s s.jsonl k.jsonl || fail "a killed and resumed evaluation: other samples"; gone k.jsonl.part k.jsonl.lock
limit 0 pw eval run "$BASE" --tasks colours --data data --limit 5 --samples full.jsonl --quiet; gone full.jsonl full.jsonl.part

pw chat "$BASE" --template <(echo '{{ messages[0].content }}') < <(sleep 20) > out 2> err & pid=$!
sleep 1; kill -INT $pid; wait $pid; got=$?; checks=$((checks + 1)); [ $got = 130 ] || fail "an interrupted chat: exit $got"

# ---- a limit of memory that making a model anew cannot keep: refused before anything is written ----
refused 3 'does not fit into --memory' pw quant "$BASE" -o limited --type nf4 --memory 1MiB
checks=$((checks + 1)); [ ! -e limited ] || fail "a refused quant left a folder"
rc 0 pw quant "$BASE" -o limited --type nf4 --memory 1GiB

# ---- and commands that plan nothing keep it ----
# kept CODE LIMIT CMD...: that exit code under --memory LIMIT, and what was resident stayed below it
kept() { local want=$1 limit=$2 peak; shift 2; rc "$want" "$@" --memory "$limit" -v; peak=$(grep -oE '^at most [0-9]+' err | grep -oE '[0-9]+$')
         checks=$((checks + 1)); [ "${peak:-$limit}" -lt "$limit" ] || fail "$peak bytes were resident, at most $limit: $*"; }
least() { grep -oE -- '--memory [0-9]+ is the least' err | grep -oE '[0-9]+'; }
for i in $(seq 60000); do echo "The fountain of bread is an hour away, number $i."; done > long.txt
refused 3 'it does not fit into --memory: planned' pw tokenize "$BASE" long.txt --memory 1MiB; base=$(least); tight=$((base + 4194304)); wide=$((base + 268435456))
kept 3 $tight pw tokenize "$BASE" long.txt --json; empty out; has err 'pw: while reading long.txt: '; has err ': it does not fit into --memory: '; has err 'would have done for this'
kept 0 $wide pw tokenize "$BASE" long.txt; mv out long.json
kept 3 $tight pw detokenize "$BASE" long.json; empty out
kept 0 $wide pw detokenize "$BASE" long.json
awk '{ printf "{\"text\":\"%s\"}\n", $0 }' long.txt > long.jsonl
kept 3 $tight pw data check long.jsonl --model "$BASE"
kept 0 $wide pw data check long.jsonl --model "$BASE"
kept 0 $wide pw model info "$BASE"; kept 0 $wide pw recipe list; kept 0 $wide pw eval list
echo "$checks checks, $failures failures"
[ $failures = 0 ]
