#!/usr/bin/env bash
# The script that a machine with a card runs (tools/gpu/run), without one: programs that answer, fail, crash and hang as they are told. What comes back from such a
# machine is the report alone, so it must be there after each of them, be JSON, and say what failed.
set -u
ROOT=$PWD T=$(mktemp -d) checks=0 failures=0
trap 'rm -rf "$T"' EXIT
fail() { failures=$((failures + 1)); echo "FAILED: $*"; }
mkdir -p "$T/pack/bin"
cp tools/gpu/run tools/gpu/peer.py tools/version.txt "$T/pack/"
cat > "$T/pack/bin/pw" <<'P'
#!/usr/bin/env bash
[[ $* != *score* ]] || { echo '{"schema":1}'; exit 0; }
limits='"limits":{"gemm_flops":7e14,"read_bytes_per_s":2.9e12},"share":{"encode":0.4},"encode_bytes_per_s":1e12'
if [[ $* != *'--prompt 0'* ]]; then
    echo '{"schema":1,'"$limits"',"prefill_runs":[{"batch":1,"tokens":512,"tokens_per_s":9000,"share_of_limit":0.25,"planned_bytes":5368709120,"in_use_bytes":5368709120}],"decode_runs":[],"train_runs":[],"attention":[]}'
    exit 0
fi
size=$(sed 's/.*--train \([0-9x]*\).*/\1/' <<<"$*")
case $FAKE-$size in
fails-2048) printf 'pw: while “taking” \\ a "thing"\tand\033 more | of it\n    a way out\n' >&2; exit 1 ;;
hangs-2048) trap '' TERM; while :; do sleep 1; done ;;
esac
attention='{"rows":256,"sequences":1,"window":0,"ours_s":0.001,"library_s":0.0005}'
[ "$size" = 8192 ] || attention=
batch=1; [[ $size != *x* ]] || batch=${size%x*}
echo '{"schema":1,'"$limits"',"prefill_runs":[],"decode_runs":[],"train_runs":[{"batch":'$batch',"tokens":'${size#*x}',"tokens_per_s":10000,"share_of_limit":0.5,"planned_bytes":5368709120,"in_use_bytes":5476083302}],"attention":['$attention']}'
P
cat > "$T/pack/bin/tests" <<'P'
#!/usr/bin/env bash
case $FAKE-$1 in
crashes-test_op_device) kill -SEGV $$ ;;
fails-test_sample) echo '50%: Checks: 2, Failures: 1, Errors: 0'; echo 'tests/test_sample.c:9:F:sample:draws:0: other bytes'; exit 1 ;;
good-test_op) echo 'skipped: cuda: no library'; echo 'skipped: cuda: no library' ;;
esac
echo '100%: Checks: 3, Failures: 0, Errors: 0'
P
cat > "$T/python" <<'P'
#!/usr/bin/env bash
[[ $* == *peer.py* ]] || exit 0
cat > "$4" <<J
{"schema": 1, "base": "nf4", "versions": {"torch": "2"}, "runs": [{"batch": 1, "tokens": 2048, "seconds": 1, "tokens_per_s": 4000.0, "in_use_bytes": 10952166604}, {"batch": 1, "tokens": 8192, "error": "out of memory"}]}
J
P
chmod +x "$T/pack/bin/pw" "$T/pack/bin/tests" "$T/python"
# run FAKE EXIT [SECONDS]
run() {
    FAKE=$1 PYTHON=$T/python PW_GPU_SECONDS=${3:-300} PATH=$T:$PATH "$T/pack/run" cuda:0 "$T/$1" > "$T/$1.out" 2> "$T/$1.err"
    local got=$?
    checks=$((checks + 2))
    [ $got = "$2" ] || fail "$1: exit $got, expected $2"
    if command -v python3 > /dev/null; then python3 -m json.tool "$T/$1.json" > /dev/null || fail "$1: the report is no JSON"; fi
}
has() { checks=$((checks + 1)); grep -qF -- "$2" "$T/$1" || fail "no '$2' in $1"; }
hasnt() { checks=$((checks + 1)); ! grep -qF -- "$2" "$T/$1" || fail "'$2' in $1"; }

run good 0
has good.md '| op table | ok | '; has good.md '100%: Checks: 3, Failures: 0, Errors: 0, 2 skipped: cuda: no library |'
has good.md '| prefill | 1 x 512 | 9000.0 | 25.0 % | 5.00 GiB | 5.00 GiB (+0.0 %) |'
has good.md '| training | 4 x 2048 | 10000.0 | 50.0 % | 5.10 GiB | 5.00 GiB (-2.0 %) |'
has good.md '| 1 x 2048 | 4000.0 | 10000.0 | 2.50 | 10.20 GiB | 5.10 GiB | 0.50 |'
has good.md '| 1 x 8192 | failed | 10000.0 |'
has good.md '| 256 | 1 | 0 | 1.000 | 0.500 | 2.00 |'
hasnt good.md nan; hasnt good.md 'What failed'; has good.json '"failed":false'
run fails 1
has fails.json '"failed":true'; has fails.md 'What failed'
has fails.md '| training 2048 | FAILED | '; has fails.md '| pw: while “taking”   a  thing  and more   of it |'; has fails.md '      pw: while “taking” \ a "thing" and more | of it'
has fails.md '| tokens drawn | FAILED | '; has fails.md '      tests/test_sample.c:9:F:sample:draws:0: other bytes'; has fails.json '\ntests/test_sample.c:9:F'
has fails.md '| training | 1 x 8192 | 10000.0 |'; has fails.md '| 1 x 2048 | 4000.0 | failed |'
run crashes 1
has crashes.md '| ops on a device | FAILED | '; has crashes.md '| linear layers, loss head | ok | '
run hangs 1 15
has hangs.md '| training 2048 | FAILED | '; has hangs.md 'stopped after '; has hangs.md '| training 8192 | skipped | 0 | no time was left |'
checks=$((checks + 1)); ! pgrep -f "$T/pack/bin/pw" > /dev/null || fail "what hung is still there"
echo "$checks checks, $failures failures"
[ $failures = 0 ]
