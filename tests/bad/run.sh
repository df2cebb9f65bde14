#!/usr/bin/env bash
# Planted mistakes: each is made in a copy of the tree, and the check that exists to find it must fail there and say why. A check that
# passes with its mistake in place checks nothing. The mistakes are the lines of mistakes.bash:
#   planted  NAME FILE LINE  'EXPECTED TEXT' COMMAND...   appends LINE to FILE (made when absent), runs COMMAND
#   mutant   TEST FILE 'SED EXPRESSION' [CASES]           changes FILE, builds tests/TEST.c, and the program must fail; CASES: PW_OP_CASE of test_op.
#            For files of kernels/cuda and kernels/simt the table of ops runs on simt alone.
#   race     TEST FILE 'SED EXPRESSION' [CASES]           the same in the build with SAN=thread, and ThreadSanitizer must have seen a race
# Arguments choose mistakes by a part of their name, `-x PART` before them leaves some out. One worker a processor (JOBS), each with its own copy,
# takes the next mistake. Its objects come from this tree's build, if there is one, and go back to that after each mistake, so that a mistake costs
# one compilation. `--places` asks only whether each expression still changes its file (a second). A program stops at its first failed test. PW_SOUND names programs that are known to pass as they are; the others run once first.
set -eu -o pipefail
root=$(cd "$(dirname "$0")/../.." && pwd)
if [ "${1-}" = --places ]; then
    cd "$root"
    gone=0
    planted() { :; }
    mutant() { if [ ! -e "$2" ] || cmp -s "$2" <(sed "$3" "$2"); then echo "planted mistake without a place: $1 $2 $3"; gone=1; fi; }
    race() { mutant "$@"; }
    . tests/bad/mistakes.bash
    exit $gone
fi
work=$(mktemp -d "${TMPDIR:-/tmp}/pw-bad-XXXXXX")
trap 'rm -rf "$work"' EXIT
trap 'kill $(jobs -p) 2> /dev/null; exit 1' INT TERM
make=(${MAKE:-make} CC="${CC:-gcc}")
without=()
while [ "${1-}" = -x ]; do without+=("$2"); shift 2; done
only=("$@")
chosen() { local word; for word in "${without[@]}"; do [[ $1 != *"$word"* ]] || return 1; done; [ ${#only[@]} -eq 0 ] && return 0; for word in "${only[@]}"; do [[ $1 == *"$word"* ]] && return 0; done; return 1; }

# This worker has the next chosen mistake: nobody else made its folder.
taken=0
mine() {
    chosen "$1" || return 1
    taken=$((taken + 1)) began=$SECONDS
    mkdir "$work/$taken" 2> /dev/null
}
report() {
    if [ "$1" = ok ]; then printf 'found     %3d s  %s\n' $((SECONDS - began)) "$2"; return 0; fi
    echo "NOT FOUND $2: $3"
    touch "$work/$taken/not-found"
}
keep() { mkdir -p "$(dirname "$1")"; rm -f .kept; if [ -e "$1" ]; then cp -p "$1" .kept; fi; touch .began; }
restore() { if [ -e .kept ]; then mv .kept "$1"; else rm -f "$1"; fi; }
# What was built since keep() is again what the tree's build has, or is gone.
restore_build() {
    local built
    find build -newer .began -type f | while IFS= read -r built; do
        if [ -e "$root/$built" ]; then cp -p --remove-destination "$root/$built" "$built"; else rm -f "$built"; fi
    done
}

planted() {
    local name=$1 file=$2 line=$3 expected=$4 output
    shift 4
    mine "$name" || return 0
    if ! output=$("$@" 2>&1); then report bad "$name" "$* fails without the mistake: $output"; return 0; fi
    keep "$file"
    printf '%s\n' "$line" >> "$file"
    if output=$("$@" 2>&1); then report bad "$name" "$* passes"
    elif [[ $output != *"$expected"* ]]; then report bad "$name" "expected \"$expected\", got: $output"
    else report ok "$name"; fi
    restore "$file"
}

mutant() { change "" "$@"; }
race() {
    if [ -n "${PW_NO_SAN:-}" ]; then mine "$1 $2 $3" && echo "skipped: $1 $2 $3: PW_NO_SAN is set"; return 0; fi
    change thread "$@"
}
change() {
    local san=$1 test=$2 file=$3 expression=$4 name="$2 $3 $4" output program device= timed_out=
    local run=(timeout 600 env PW_OP_CASE="${5:-}" TSAN_OPTIONS=atexit_sleep_ms=0)
    mine "$name" || return 0
    if [[ $file == kernels/cuda/* || $file == kernels/simt/* ]]; then run+=(PW_OP_DEVICE=simt); device=simt; fi
    if [[ $file == kernels/cpu/* ]]; then run+=(PW_OP_DEVICE=cpu); device=cpu; fi
    program=$("${make[@]}" -s --no-print-directory SAN=$san print-B)/tests/$test
    if [[ $sound != *" $test$san$device "* && $sound != *" $test$san "* ]]; then # once for each program: it must pass as it is
        if ! output=$("${make[@]}" -s SAN=$san "$program" 2>&1) || ! passes; then report bad "$name" "fails without the mistake: $(tail -c 600 <<< "$output")"; return 0; fi
        sound+="$test$san$device "
    fi
    keep "$file"
    sed -i "$expression" "$file"
    if cmp -s "$file" .kept; then report bad "$name" "the expression changes nothing"; restore "$file"; return 0; fi
    if ! output=$("${make[@]}" -s SAN=$san "$program" 2>&1); then report bad "$name" "does not build: ${output:0:600}"
    elif passes; then
        if [[ ! -e $work/shared && $output == *"skipped: "* ]]; then echo "skipped: $name: shared/ is not there"; else report bad "$name" "the test passes"; fi
    elif [ -n "$san" ] && [[ $output != *"data race"* ]]; then report bad "$name" "fails, but without a race: $(tail -c 600 <<< "$output")"
    elif [ -n "$timed_out" ]; then report bad "$name" "$output"
    else report ok "$name"; fi
    restore "$file"
    restore_build
}
# Runs $program as ${run[@]} says until a test of it fails; its words are in $output.
passes() {
    local line pid left
    output= timed_out=
    exec 3< <(CK_TAP_LOG_FILE_NAME=- exec "${run[@]}" "$PWD/$program" 2>&1)
    pid=$!
    while IFS= read -r line <&3; do
        output+=$line$'\n'
        if [[ $line == "not ok"* ]]; then # and its child, which has a group of its own
            kill "$pid" 2> /dev/null || true
            wait "$pid" || true
            for left in /proc/[0-9]*; do if [ "$left/exe" -ef "$program" ]; then kill -KILL "${left#/proc/}" 2> /dev/null || true; fi; done
            return 1
        fi
    done
    local status=0
    wait "$pid" || status=$?
    if [ $status = 124 ]; then output="600 s were not enough"; timed_out=1; fi
    return $status
}

worker() {
    local copy=$work/copy$1 dir san
    mkdir -p "$copy/build" "$copy/.tmp"
    cd "$root"
    tar -c --exclude=./build --exclude=./.git --exclude=./shared --exclude=./runs --exclude=./demo . | tar -x -C "$copy"
    for san in "" thread; do
        dir=$("${make[@]}" -s --no-print-directory SAN=$san print-B)
        if [ -d "$dir" ]; then cp -a "$dir" "$copy/build/"; fi
    done
    cd "$copy"
    export TMPDIR=$copy/.tmp
    sound=" ${PW_SOUND-} "
    . "$root/tests/bad/mistakes.bash"
    echo $taken > "$work/ran"
}
for data in "${PW_SHARED:-}" "$root/../shared" "$root/shared"; do # beside the copies, where their tests look
    if [ -n "$data" ] && [ -d "$data" ]; then ln -s "$(realpath "$data")" "$work/shared"; break; fi
done
jobs=${JOBS:-$(nproc)} pids=()
for ((w = 0; w < jobs; w++)); do worker $w & pids+=($!); done
for pid in "${pids[@]}"; do wait "$pid"; done
ran=$(cat "$work/ran") survived=$(find "$work" -mindepth 2 -maxdepth 2 -name not-found | wc -l)
echo "$ran planted mistakes, $survived not found"
[ "$ran" -gt 0 ] && [ "$survived" -eq 0 ]
