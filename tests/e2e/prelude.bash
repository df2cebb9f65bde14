# Read by scripts that try the program out as a user has it: an installed copy, a folder with an odd name, and checks that are counted.
set -u
T=$(mktemp -d); trap 'rm -rf "$T"' EXIT
ROOT=$PWD; BASE=$ROOT/tools/demo/base; failures=0; checks=0
if [ ! -s "$BASE/model.safetensors" ]; then echo "skipped: $BASE is missing"; exit 0; fi
mkdir "$T/bin" "$T/an odd – folder"; cp -L "$ROOT/pw" "$T/bin/pennyweight"; ln -s pennyweight "$T/bin/pw"; export PATH=$T/bin:$PATH XDG_CACHE_HOME=$T/cache
cd "$T/an odd – folder" || exit 1
fail() { failures=$((failures + 1)); echo "FAILED: $*"; }
rc() { local want=$1 got; shift; checks=$((checks + 1)); "$@" > out 2> err < /dev/null; got=$?
       [ $got = "$want" ] || { fail "expected exit $want, got $got: $*"; tail -3 err; }; }
has() { checks=$((checks + 1)); grep -qF -- "$2" "$1" || { fail "no '$2' in $1"; head -c 600 "$1"; }; }
empty() { checks=$((checks + 1)); [ ! -s "$1" ] || fail "$1 is not empty: $(head -c 200 "$1")"; }
# refused CODE TEXT CMD...: that exit code, that text on stderr in a line that begins with "pw: ", nothing on stdout
refused() { local want=$1 text=$2; shift 2; rc "$want" "$@"; has err "$text"; empty out; checks=$((checks + 1)); grep -q '^pw: ' err || fail "no line 'pw: …': $*"; }
# json CMD...: exit 0, one line, one document with the schema
json() { rc 0 "$@"; checks=$((checks + 1)); [ "$(wc -l < out)" = 1 ] && grep -q '^{"schema":1[,}]' out && grep -q '}$' out || fail "not one JSON document: $*: $(head -c 200 out)"; }
