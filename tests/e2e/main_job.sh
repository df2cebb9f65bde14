#!/usr/bin/env bash
# The main job as a user runs it, on the demo's committed base: quantise, train, kill and resume, evaluate, compare, pack; and what is refused.
set -u
T=$(mktemp -d); trap 'rm -rf "$T"' EXIT
export XDG_CACHE_HOME=$T/cache
PW=$PWD/pw; failures=0; checks=0
fail() { failures=$((failures + 1)); echo "FAILED: $*"; }
# rc EXPECTED CMD...: exit status; stdout and stderr are kept in $T/out, $T/err
rc() { local want=$1 got; shift; checks=$((checks + 1)); "$@" > "$T/out" 2> "$T/err" < /dev/null; got=$?
       [ $got = "$want" ] || { fail "expected exit $want, got $got: $*"; tail -3 "$T/err"; }; }
has() { checks=$((checks + 1)); grep -q -- "$2" "$1" || { fail "no '$2' in $1"; tail -3 "$1"; }; }
empty() { checks=$((checks + 1)); [ ! -s "$1" ] || fail "$1 is not empty: $(head -c 200 "$1")"; }
refused() { local want=$1 text=$2; shift 2; rc "$want" "$@"; has "$T/err" "$text"; empty "$T/out"; }

BASE=tools/demo/base
if [ ! -s $BASE/model.safetensors ]; then echo "skipped: $BASE is missing"; exit 0; fi
head -120 tools/demo/town-train.jsonl > "$T/rows.jsonl"

# ---- quantise ----
rc 0 $PW quant $BASE -o "$T/nf4" --type nf4 --double-quant --json
has "$T/out" '"type":"nf4"'
refused 3 'exists' $PW quant $BASE -o "$T/nf4" --type nf4 --json
rc 0 $PW model info "$T/nf4" --json
has "$T/out" '"family":"llama"'

# ---- train; kill; resume: the same bytes ----
train() { command "$PW" train tools/demo/town.yaml --set model="$T/nf4" --set data.train="$T/rows.jsonl" --set train.epochs=6 --set train.save_every=5 --quiet "$@"; }
rc 0 train --set output="$T/whole" --json
has "$T/out" '"steps"'
for after in 0.3 0.7 1.1; do
  "$PW" train tools/demo/town.yaml --set model="$T/nf4" --set data.train="$T/rows.jsonl" --set train.epochs=6 --set train.save_every=5 --quiet --set output="$T/cut" > /dev/null 2>&1 & pid=$!
  sleep $after; kill -9 $pid 2> /dev/null; wait $pid 2> /dev/null
  [ -d "$T/cut" ] || continue
  rc 0 train --set output="$T/cut" --resume
  checks=$((checks + 1)); cmp -s "$T/whole/adapter/adapter_model.safetensors" "$T/cut/adapter/adapter_model.safetensors" || fail "killed after $after s and resumed: another adapter"
  rm -rf "$T/cut"
done
refused 3 'another device or version computes now' train --set output="$T/whole" --resume --device ref
refused 3 'exists' train --set output="$T/whole"
for f in adapter/adapter_config.json adapter/adapter_model.safetensors log.jsonl log.csv recipe.yaml; do checks=$((checks + 1)); [ -s "$T/whole/$f" ] || fail "$f is missing"; done
has "$T/whole/log.jsonl" '"trained_tokens"'
rc 0 $PW lora info "$T/whole/adapter" --json
rc 0 $PW plan tools/demo/town.yaml --set model="$T/nf4" --set data.train="$T/rows.jsonl" --json
has "$T/out" '"peak_bytes"'
refused 3 'does not fit' train --set output="$T/small" --memory 1MiB

# ---- evaluate: any batch, the same bytes; compare ----
ev() { $PW eval run "$T/nf4" --tasks pennyford --data tools/demo --limit 40 --json --quiet "$@"; }
rc 0 ev; cp "$T/out" "$T/base.json"
has "$T/base.json" '"n":40'
for b in 1 7 4096; do
  rc 0 ev --batch-tokens $b
  checks=$((checks + 1)); cmp -s <(sed 's/"seconds":[^,]*//' "$T/out") <(sed 's/"seconds":[^,]*//' "$T/base.json") || fail "scores depend on --batch-tokens $b"
done
rc 0 ev --adapter "$T/whole/adapter" --samples "$T/whole/tuned.samples.jsonl" -o "$T/whole/tuned.json"
rc 0 $PW eval compare "$T/base.json" "$T/whole/tuned.json" --json
has "$T/out" '"verdict"'
rc 0 $PW eval compare "$T/base.json" "$T/base.json" --json
has "$T/out" 'no effect'
refused 2 'unknown task' $PW eval run "$T/nf4" --tasks pennyfrod --data tools/demo --json
refused 3 'no data' $PW eval run "$T/nf4" --tasks arc_easy --data "$T" --json

# ---- merge; a fresh adapter changes nothing ----
rc 0 $PW lora init "$T/nf4" -o "$T/fresh"
refused 1 'nothing' $PW lora merge "$T/nf4" --adapter "$T/fresh" -o "$T/merged-none" --type f32
rc 0 $PW lora merge "$T/nf4" --adapter "$T/whole/adapter" -o "$T/merged" --type f32
rc 0 $PW eval run "$T/merged" --tasks pennyford --data tools/demo --limit 40 --json

# ---- the entry ----
rc 0 $PW entry build "$T/whole" -o "$T/entry.tar.zst" --json
rc 0 $PW entry build "$T/whole" -o "$T/entry2.tar.zst" --json
checks=$((checks + 1)); cmp -s "$T/entry.tar.zst" "$T/entry2.tar.zst" || fail "two packs of one run differ"
rc 0 $PW entry check "$T/entry.tar.zst" --model "$T/nf4" --json
has "$T/out" '"ok":true'
head -c 3000 "$T/entry.tar.zst" > "$T/short.tar.zst"
refused 1 'short.tar.zst' $PW entry check "$T/short.tar.zst" --json

# ---- bad input ----
mkdir "$T/bad"; cp $BASE/*.json "$T/bad/"
head -c 5000 $BASE/model.safetensors > "$T/bad/model.safetensors"
refused 1 'model.safetensors' $PW model info "$T/bad" --json
printf '\377\377\377\377\377\377\377\177{}' > "$T/bad/model.safetensors"
refused 1 'header' $PW model info "$T/bad" --json
cp $BASE/model.safetensors "$T/bad/"; sed -i 's/LlamaForCausalLM/NoSuchModel/; s/"llama"/"nosuch"/' "$T/bad/config.json"
refused 1 'nosuch\|NoSuch' $PW model info "$T/bad" --json
printf '{"prompt":"a","completion":"b"}\n{"prompt":\n' > "$T/broken.jsonl"
refused 1 'broken.jsonl' $PW train tools/demo/town.yaml --set model="$T/nf4" --set data.train="$T/broken.jsonl" --set output="$T/x" --json
has "$T/err" '2'
: > "$T/none.jsonl"
refused 3 'none.jsonl' $PW train tools/demo/town.yaml --set model="$T/nf4" --set data.train="$T/none.jsonl" --set output="$T/x" --json
refused 2 'lerning\|lr' $PW train tools/demo/town.yaml --set train.lerning=1 --json
refused 1 'no-such' $PW eval run "$T/no-such" --tasks pennyford --data tools/demo --json
refused 1 '' $PW eval run $BASE --tasks pennyford --data tools/demo --adapter "$T/no-such" --json
refused 2 'unknown command' $PW trian
refused 2 'sead\|seed' $PW train tools/demo/town.yaml --sead 1
refused 3 'cuda' $PW eval run $BASE --tasks pennyford --data tools/demo --device cuda --json
checks=$((checks + 1)); [ ! -e "$T/x" ] || fail "a refused run left its folder"
( ulimit -f 200; $PW quant $BASE -o "$T/full" --type f32 > /dev/null 2> "$T/err" ); checks=$((checks + 1)); [ ! -e "$T/full" ] || fail "a failed write left an output"
rc 1 bash -c "$PW eval list > /dev/full"
rc 0 $PW help; rc 0 $PW train --help; rc 0 $PW --version; rc 0 $PW completion bash

echo "$checks checks, $failures failures"
[ $failures = 0 ]
