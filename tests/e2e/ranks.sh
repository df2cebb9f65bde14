#!/usr/bin/env bash
# Several ranks as a user starts them: mpirun on this machine. 2 and 3 ranks against one, a rank that is killed, signals, resuming, preferences, errors that
# one rank alone has, launchers that are none, and a program without MPI.
set -u
T=$(mktemp -d); trap 'rm -rf "$T"' EXIT
export XDG_CACHE_HOME=$T/cache OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 OMP_WAIT_POLICY=passive
PW=$(readlink -f pw); BASE=tools/demo/base; failures=0; checks=0
if [ ! -s $BASE/model.safetensors ]; then echo "skipped: $BASE is missing"; exit 0; fi
fail() { failures=$((failures + 1)); echo "FAILED: $*"; }
rc() { local want=$1 got; shift; checks=$((checks + 1)); "$@" > "$T/out" 2> "$T/err" < /dev/null; got=$?
       [ $got = "$want" ] || { fail "expected exit $want, got $got: $*"; tail -5 "$T/err"; }; }
has() { checks=$((checks + 1)); grep -q -- "$2" "$1" || { fail "no '$2' in $1"; tail -5 "$1"; }; }
once() { checks=$((checks + 1)); [ "$(grep -c -- "$2" "$1")" = 1 ] || fail "'$2' stands $(grep -c -- "$2" "$1") times in $1, expected once"; }

head -60 tools/demo/town-train.jsonl > "$T/rows.jsonl"
cat > "$T/sft.yaml" <<YAML
model: $BASE
adapter: {r: 4, alpha: 8, dropout: 0.1}
data: {train: $T/rows.jsonl, eval: 0.1, max_length: 128, packing: true}
train: {steps: 8, batch_size: 1, accumulate: 1, lr: 1e-3, eps: 1e-4, neftune: 5, save_every: 3, eval_every: 4}
YAML
train() { "$PW" train "$T/sft.yaml" --device cpu --threads 1 "$@"; }

# ---- a launcher that is none: a plain run inside a job of SLURM, one rank of mpirun; and ranks without MPI ----
mkdir "$T/bare"; cp "$PW" "$T/bare/pw"
rc 0 env SLURM_JOB_ID=1 SLURM_NTASKS=4 SLURM_PROCID=0 "$T/bare/pw" train "$T/sft.yaml" --device cpu --threads 1 --set output="$T/slurm" --set train.steps=2
rc 0 env OMPI_COMM_WORLD_RANK=0 OMPI_COMM_WORLD_SIZE=1 "$T/bare/pw" train "$T/sft.yaml" --device cpu --threads 1 --set output="$T/lone" --set train.steps=2
for v in "OMPI_COMM_WORLD_RANK=1 OMPI_COMM_WORLD_SIZE=2" "PMI_RANK=1 PMI_SIZE=2" "SLURM_PROCID=1 SLURM_STEP_NUM_TASKS=2"; do
  # shellcheck disable=SC2086
  rc 1 env $v "$T/bare/pw" train "$T/sft.yaml" --device cpu --set output="$T/none"
  has "$T/err" 'several ranks need MPI'; has "$T/err" 'install libopenmpi-dev'; checks=$((checks + 1)); [ ! -e "$T/none" ] || fail "a folder was made without MPI"
done
if ! command -v mpirun > /dev/null || [ ! -e "$(dirname "$PW")/libpw_mpi.so" ]; then echo "skipped: MPI is not there (tools/bootstrap --all)"; echo "$checks checks, $failures failures"; [ $failures = 0 ]; exit; fi
ranks() { local n=$1; shift; mpirun --oversubscribe --bind-to none -np "$n" "$PW" train "$@" --device cpu --threads 1; }
checks=$((checks + 1)); ! ldd "$PW" | grep -q libmpi || fail "pw itself needs MPI"

# ---- 2 x 3 = 3 x 2 = 1 x 6; twice the same bytes ----
rc 0 train --set output="$T/one" --set train.accumulate=6
rc 0 ranks 2 "$T/sft.yaml" --set output="$T/two" --set train.accumulate=3; once "$T/err" '^plan: '; once "$T/out" 'steps, '; checks=$((checks + 1)); [ "$(wc -l < "$T/out")" = 4 ] || fail "more than one rank speaks: $(cat "$T/out")"
rc 0 ranks 2 "$T/sft.yaml" --set output="$T/again" --set train.accumulate=3 --json; checks=$((checks + 1)); [ "$(wc -l < "$T/out")" = 1 ] || fail "not one document: $(cat "$T/out")"
rc 0 ranks 3 "$T/sft.yaml" --set output="$T/three" --set train.accumulate=2
checks=$((checks + 1)); cmp -s "$T/two/adapter/adapter_model.safetensors" "$T/again/adapter/adapter_model.safetensors" || fail "2 ranks twice: other bytes"
near() { checks=$((checks + 1)); awk -F, -v OFS=, 'NR == FNR { a[FNR] = $2; b[FNR] = $4; e[FNR] = $10; n = FNR; next } FNR > 1 { lines++
    for (i = 0; i < 3; i++) { x = i == 0 ? a[FNR] : i == 1 ? b[FNR] : e[FNR]; y = i == 0 ? $2 : i == 1 ? $4 : $10
      if ((x == "") != (y == "") || (x != "" && !((x - y) * (x - y) <= 1e-10 * y * y))) { print "line " FNR ": " x " and " y; bad = 1 } } }
    END { exit bad || FNR != n || lines < 8 }' "$1/log.csv" "$2/log.csv" || fail "$1 and $2 differ"; }
near "$T/one" "$T/two"; near "$T/one" "$T/three"
rc 0 ranks 2 "$T/sft.yaml" --set output="$T/dry" --dry-run; has "$T/out" 'sums over ranks'; checks=$((checks + 1)); [ "$(grep -c '^PEAK' "$T/out")" = 1 ] || fail "the plan is not printed once"

# ---- the choices of products are those of rank 0 for all: two passes of a step give the same bytes by one rank and by two, and others than the fixed rule ----
P=tests/fixtures/train_golden
printf '%s\n' "model: $P/model" "adapter: {r: 4, alpha: 8, targets: all-linear}" "data: {train: $P/rows.jsonl, format: completion, max_length: 24}" \
  "train: {steps: 2, batch_size: 1, eval_every: 0, warmup: 0, lr: 0.01}" > "$T/ways.yaml"
for pass in forward backward; do for shape in 32,24 16,24 24,32 40,24 24,40; do
  printf '{"pass": "%s", "type": "dense", "dtype": "f32", "rows": 32, "n_out": %s, "n_in": %s, "way": "decoded", "fused_s": 2, "decoded_s": 1}\n' $pass "${shape%,*}" "${shape#*,}"
done; done | paste -sd, | sed "s/.*/{\"schema\": 3, \"version\": \"$(cat tools/version.txt)\", \"device\": \"\", \"driver\": 0, \"attention_library\": 1, \"choices\": [&], \"attention\": []}/" > "$T/ways.json"
rc 0 "$PW" train "$T/ways.yaml" --device simt --threads 1 --set output="$T/ways0" --set train.accumulate=2
rc 0 "$PW" train "$T/ways.yaml" --device simt --threads 1 --set output="$T/ways1" --set train.accumulate=2 --products "$T/ways.json"
rc 0 mpirun --oversubscribe --bind-to none -np 2 "$PW" train "$T/ways.yaml" --device simt --threads 1 --set output="$T/ways2" --set train.accumulate=1 --products "$T/ways.json"
checks=$((checks + 2)); cmp -s "$T"/ways[12]/adapter/adapter_model.safetensors || fail "choices of products: 2 ranks have other bytes than 1"
! cmp -s "$T"/ways[01]/adapter/adapter_model.safetensors || fail "choices of products: they change nothing"

# ---- sums by the devices' own library (a stand-in for NCCL, on the emulated device): the bytes of sums over host memory; an error and a death inside of it ----
NCCL=$(dirname "$PW")/libnccl_fake.so
peers() { local wish=$1 to=$2; shift 2; FAKE_NCCL=$wish PW_SIMT=forward,nccl:$NCCL mpirun --oversubscribe --bind-to none -np 2 "$PW" train "$T/ways.yaml" --device simt --threads 1 --set train.steps=3 --set output="$to" "$@"; }
rc 0 mpirun --oversubscribe --bind-to none -np 2 "$PW" train "$T/ways.yaml" --device simt --threads 1 --set train.steps=3 --set output="$T/byhost"
once "$T/err" '^ranks sum over host memory: rank 0: the emulated device has no NCCL$'
began=$SECONDS; rc 0 peers "" "$T/bynccl"; most=$((SECONDS - began + 10)); once "$T/err" '^ranks sum over nccl 2.28.9$'
same() { checks=$((checks + 1)); cmp -s "$T/byhost/adapter/adapter_model.safetensors" "$1/adapter/adapter_model.safetensors" || fail "$2"; }
same "$T/bynccl" "2 ranks over NCCL have other bytes than over host memory"
has "$T/bynccl/log.jsonl" '"ranks":2,"sums":"nccl 2.28.9"'
rc 0 peers "" "$T/asked" --set train.sums=host --json; once "$T/err" '^ranks sum over host memory: rank 0: train.sums: host$'; has "$T/out" '"ranks":2,"sums":"host"'; same "$T/asked" "sums: host has other bytes"
rc 1 peers error:1:4 "$T/bynccl1"; once "$T/err" '^pw: .*rank 1: device simt: NCCL: summing: remote process.*state of step 1 saved in'; has "$T/err" '--resume goes on'
rc 3 mpirun --oversubscribe --bind-to none -np 2 "$PW" train "$T/ways.yaml" --device simt --threads 1 --set train.steps=3 --set output="$T/bynccl1" --resume
has "$T/err" "ranks sum by another way now, to other bytes (saved with 'nccl 2.28.9', now 'host')"
rc 0 peers "" "$T/bynccl1" --resume; same "$T/bynccl1" "an error of NCCL, resumed: other bytes"
began=$SECONDS; peers die:1:4 "$T/bynccl2" > "$T/out" 2> "$T/err" < /dev/null; got=$?
checks=$((checks + 2)); [ $got != 0 ] || fail "a rank that died in a sum: exit 0"; [ $((SECONDS - began)) -le $most ] || fail "a rank that died in a sum: it took $((SECONDS - began)) s"
has "$T/err" 'rank 1 (process [0-9]*) is gone: the run ends; state of step 1 saved in'
rc 0 peers "" "$T/bynccl2" --resume; same "$T/bynccl2" "a rank that died in a sum, resumed: other bytes"

# ---- preferences ----
for i in 1 2 3 4 5 6; do echo "{\"prompt\":\"the baker of street $i\",\"chosen\":\" sells bread\",\"rejected\":\" sells $i nails\"}"; done > "$T/pairs.jsonl"
sed "s/objective: [a-z]*//; s/{steps/{objective: dpo, steps/; s|rows.jsonl, eval: 0.1|pairs.jsonl|" "$T/sft.yaml" > "$T/dpo.yaml"
rc 0 "$PW" train "$T/dpo.yaml" --device cpu --threads 1 --set output="$T/dpo1" --set train.accumulate=2
rc 0 ranks 2 "$T/dpo.yaml" --set output="$T/dpo2"; near "$T/dpo1" "$T/dpo2"

# ---- a rank that is killed; signals; resuming ends in the same bytes ----
LONG=(--set train.steps=200 --set train.eval_every=0 --set train.save_every=20)
rc 0 ranks 2 "$T/sft.yaml" "${LONG[@]}" --set output="$T/whole" --quiet
hit() { # WHAT SIGNAL STEP ARGS: signal to rank 1 (its process) or to mpirun, after a step
  local what=$1 signal=$2 step=$3 m i victim began; shift 3
  mpirun --oversubscribe --bind-to none -np 2 "$PW" train "$T/sft.yaml" --device cpu --threads 1 "${LONG[@]}" --set output="$T/cut" "$@" > "$T/out" 2> "$T/err" < /dev/null & m=$!
  for ((i = 0; i < 600; i++)); do if grep -q "\"step\":$step," "$T/cut/log.jsonl" 2> /dev/null || ! kill -0 $m 2> /dev/null; then break; fi; sleep 0.05; done
  if [ "$what" = launcher ]; then victim=$m; else victim=$(for p in $(cat /proc/$m/task/*/children); do tr '\0' '\n' < /proc/$p/environ | grep -qx OMPI_COMM_WORLD_RANK=1 && echo $p; done); fi
  began=$SECONDS; kill "-$signal" "$victim" || fail "no process to signal"; wait $m; got=$?
  checks=$((checks + 1)); [ $((SECONDS - began)) -le 10 ] || fail "signal $signal to $what: it took $((SECONDS - began)) s"
  checks=$((checks + 1)); ls -A "$T/cut/checkpoints" | grep -qE '\.part$' && fail "signal $signal to $what left $(ls -A "$T/cut/checkpoints")"
}
hit rank KILL 30; checks=$((checks + 1)); [ $got != 0 ] || fail "a killed rank: exit 0"
has "$T/err" 'rank 1 (process [0-9]*) is gone'; has "$T/err" '--resume goes on'
hit rank TERM 60 --resume; checks=$((checks + 1)); [ $got = 130 ] || fail "SIGTERM of a rank: exit $got"; once "$T/err" '^pw: interrupted after step'
hit rank INT 90 --resume; checks=$((checks + 1)); [ $got = 130 ] || fail "SIGINT of a rank: exit $got"
hit launcher USR1 120 --resume; checks=$((checks + 1)); [ $got = 130 ] || fail "SIGUSR1 of the launcher: exit $got"; has "$T/err" 'state saved'
hit launcher TERM 150 --resume; checks=$((checks + 1)); [ $got != 0 ] || fail "SIGTERM of the launcher: exit 0"
rc 0 ranks 2 "$T/sft.yaml" "${LONG[@]}" --set output="$T/cut" --resume --quiet
checks=$((checks + 1)); cmp -s "$T/whole/adapter/adapter_model.safetensors" "$T/cut/adapter/adapter_model.safetensors" || fail "killed, stopped four times and resumed: another adapter"
rc 3 train "${LONG[@]}" --set output="$T/cut" --resume; has "$T/err" 'train.accumulate times the number of ranks was changed (saved 2, now 1)'
rc 0 train "${LONG[@]}" --set output="$T/cut" --set train.accumulate=2 --resume; has "$T/err" 'saved by 2 ranks'

# ---- what one rank alone meets ends all, with one message ----
rc 3 ranks 2 "$T/sft.yaml" --set output="$T/whole"; once "$T/err" '^pw: .* exists already'
rc 2 ranks 2 "$T/sft.yaml" --set train.stepps=3; once "$T/err" '^pw: '
one_other() { mpirun --oversubscribe --bind-to none -np 1 "$PW" train "$T/sft.yaml" --device cpu --threads 1 --set output="$T/mixed" : -np 1 "$PW" train "$T/sft.yaml" --device cpu --threads 1 --set output="$T/mixed" "$@"; }
rc 1 one_other --set data.train="$T/missing.jsonl"; once "$T/err" '^pw: rank 1: .*missing.jsonl'
rc 3 one_other --set train.lr=2e-3; once "$T/err" '^pw: the recipe of rank 1 differs from that of rank 0'
checks=$((checks + 1)); [ ! -e "$T/mixed" ] || fail "a run folder was made"
# A launcher of another MPI: each process would train for itself.
rc 3 env OMPI_COMM_WORLD_RANK=0 OMPI_COMM_WORLD_SIZE=2 "$PW" train "$T/sft.yaml" --device cpu --set output="$T/mixed"; has "$T/err" '2 ranks were started, but MPI knows of 1'

echo "$checks checks, $failures failures"
[ $failures = 0 ]
