#!/usr/bin/env bash
# A card that fails, as a user sees it: no memory, a launch that is refused, a lost card and NaN, through the emulation's faults (kernels/simt/faults.h).
. "$(dirname "$0")/prelude.bash"
MODEL=$ROOT/tests/fixtures/train_golden/model
printf 'model: %s\nquant: nf4\nadapter: {r: 4, alpha: 8}\ndata: {train: %s, format: completion, max_length: 40}\ntrain: {steps: 3, batch_size: 1, accumulate: 1, warmup: 0, spike: 0, save_every: 0, eval_every: 0}\n' \
  "$MODEL" "$ROOT/tests/fixtures/train_golden/rows.jsonl" > r.yaml
simt() { local fault=$1; shift; PW_SIMT=forward,$fault "$ROOT/pw" "$@" --device simt --threads 1; }
train() { simt "$1" train r.yaml --set output="$2" --quiet "${@:3}"; }
is() { checks=$((checks + 1)); [ -e "$1" ] || fail "$1 is missing"; }
not() { checks=$((checks + 1)); [ ! -e "$1" ] || fail "$1 is there"; }

# ---- no memory: nothing is written, and the plan says what was wanted ----
refused 3 'there is no memory left on it' train memory:1 run
refused 3 'there is less memory than planned: while taking ' train memory:3 run --json
has err 'PEAK '; has err 'STATIC    gradients'; not run
refused 3 'there is less memory than this wants: while loading the model' simt memory:2 run "$MODEL" -p '1+2=' -n 4
refused 3 'there is less memory than this wants: while opening a session' simt memory:3 run "$MODEL" -p '1+2=' -n 4
refused 2 'simt has no fault "luck:3": expected memory:N, launch:N, lost:N, nan:N or nccl:FILE' train luck:3 run

# ---- training: place, op and shape; the last whole step is kept, and going on ends in the same bytes ----
rc 0 train '' whole
same() { rc 0 train '' "$1" --resume; checks=$((checks + 1)); cmp -s whole/adapter/adapter_model.safetensors "$1/adapter/adapter_model.safetensors" || fail "$1, resumed: another adapter"; }
refused 1 'pass 1: while the ' train launch:700 refused
has err 'layer '; has err 'computing over bf16 ('; has err ': launch on device simt failed: too many resources'; has err '; state of step 2 saved in refused/checkpoints'
is refused/checkpoints/step-2.h5; same refused
refused 1 'the card is lost to this process; launches queued since it last answered: ' train lost:700 lost --set train.save_every=1
has err '; state of step 2 saved in lost/checkpoints'; same lost
refused 1 'the state of step 2 cannot be read any more; no state was saved before' train lost:700 gone
not gone/checkpoints/step-2.h5; same gone
refused 1 'step 3: the ' train nan:700 nan
has err 'is not finite (expected a number, got NaN)'; has err ', rows '; has err '; state of step 2 saved in nan/checkpoints'; same nan

# ---- generation and evaluation ----
rc 1 simt launch:30 run "$MODEL" -p '1+2=' -n 6
has err 'while a pass over 5 tokens of 1 prompts: while layer '; has err 'computing over bf16 (5, 24)'
rc 1 simt launch:100 run "$MODEL" -p '1+2=' -n 6
has err 'while a captured step of 1 rows through 2 layers: '
rc 1 simt nan:60 run "$MODEL" -p '1+2=' -n 6
has err 'is not a number'
ev() { simt "$1" eval run "$BASE" --tasks pennyford --data "$ROOT/tools/demo" --limit 4 --batch-tokens 64 --json --quiet "${@:2}"; }
rc 0 ev '' --samples whole.jsonl
refused 1 'scoring documents ' ev launch:800 --samples cut.jsonl
has err 'too many resources requested for launch'; not cut.jsonl; is cut.jsonl.part
cp cut.jsonl.part kept
rc 0 ev '' --samples cut.jsonl --resume
# What was scored before stays as it is. The rest is scored in other company, which moves bf16 sums (few and many rows add in different orders), not the choice.
choices() { sed 's/"logprobs":\[[^]]*\]//' "$1"; }
checks=$((checks + 2)); [ -s kept ] && cmp -s kept <(head -n "$(wc -l < kept)" cut.jsonl) || fail "what was scored before the fault has changed"
cmp -s <(choices whole.jsonl) <(choices cut.jsonl) || fail "an evaluation that was cut and resumed chooses otherwise"
echo "$checks checks, $failures failures"
[ $failures = 0 ]
