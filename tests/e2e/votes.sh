#!/usr/bin/env bash
# A contest as an organiser runs it, from a folder with an odd name: bad ballots are named with their line and the rest is kept; nothing that
# was acknowledged is lost; what is published can be checked by others, with sha256sum alone too.
set -u
T=$(mktemp -d); trap 'rm -rf "$T"' EXIT
PW=$PWD/pw; failures=0; checks=0
mkdir "$T/an odd – folder"; cd "$T/an odd – folder" || exit 1
fail() { failures=$((failures + 1)); echo "FAILED: $*"; }
rc() { local want=$1 got; shift; checks=$((checks + 1)); "$@" > out 2> err < /dev/null; got=$?
       [ $got = "$want" ] || { fail "expected exit $want, got $got: $*"; tail -3 err; }; }
has() { checks=$((checks + 1)); grep -qF -- "$2" "$1" || { fail "no '$2' in $1"; head -c 600 "$1"; }; }
hasnot() { checks=$((checks + 1)); ! grep -qF -- "$2" "$1" || fail "'$2' in $1"; }
same() { checks=$((checks + 1)); [ "$2" = "$3" ] || fail "$1: expected '$3', got '$2'"; }
refused() { local want=$1 text=$2; shift 2; rc "$want" "$@"; has err "$text"; checks=$((checks + 1)); [ ! -s out ] || fail "stdout of a failure: $*"; }

# ---- contests ----
printf 'name: Spring\nentries: [ada, bob, cyd]\nballots: [coins, pairs, ratings]\nbudget: 10\n' > c.yaml
rc 0 $PW vote new l --contest c.yaml --json; has out '"schema":1'
refused 3 'exists' $PW vote new l --contest c.yaml
printf 'entrys: [a]\n' > bad.yaml;                         refused 1 "nearest: 'entries'" $PW vote new x --contest bad.yaml
printf 'entries: [a, a]\n' > bad.yaml;                     refused 1 'twice' $PW vote new x --contest bad.yaml
printf 'entries: [a]\nnegative: rejcet\n' > bad.yaml;      refused 1 'bad.yaml:2' $PW vote new x --contest bad.yaml
printf 'entries: [a]\nbudget: -1\n' > bad.yaml;            refused 1 'budget' $PW vote new x --contest bad.yaml
refused 1 'none/x' $PW vote new none/x --contest c.yaml
refused 2 '--contest' $PW vote new x
checks=$((checks + 1)); [ ! -e x ] || fail "a refused contest left a ledger"

# ---- ballots: each bad one with its line and reason, the rest kept ----
cat > coins.csv <<'CSV'
voter,entry,coins,id,colour
v1,ada,3,i1,red
v1,bob,-2,,
v2,ada,1.5,,
v2,ada,11,,
v3,nobody,1,,
v3,cyd,4,i2,"two
lines"
v3,cyd,7,,
v4,bob,2
v5,bob,,,
,bob,1,,
v6,bob,1e1,,
v7,bob,0,,
v8,bob,99999999999999999999,,
v1,ada,3,i1,red
v1,ada,4,i1,red
v9,bob,+1,,
v9,bob, 1,,
v10,bob,10,,
v10,ada,1,,
CSV
rc 0 $PW vote import l coins.csv --json; mv out report
has report '"accepted":4'; has report '"repeated":1'
for line in '3,"why":"coins -2 are negative' "4,\"why\":\"coins '1.5' are not an integer" '5,"why":"over the budget' "6,\"why\":\"unknown entry 'nobody'" \
            '9,"why":"over the budget' '10,"why":"the row has 3 cells' '11,"why":"coins are missing' '12,"why":"voter is missing' "13,\"why\":\"coins '1e1' are not an integer" \
            '15,"why":"coins 99999999999999999999 are out of range' "17,\"why\":\"the voter used id 'i1' before" "18,\"why\":\"coins '+1'" "19,\"why\":\"coins ' 1'" '21,"why":"over the budget'; do
  has report "{\"line\":$line"
done
same "rejected" "$(grep -o '"line":' report | wc -l)" 14
printf '%s\n' '{"voter":"p1","left":"ada","right":"bob","choice":"left"}' '{"voter":"p1","left":"ada","right":"ada","choice":"left"}' '{"voter":' '[1]' \
  '{"voter":"p2","left":"ada","right":"cyd","choice":"maybe"}' '' '{"voter":"p2","left":"cyd","right":"ada","choice":"tie","coins":2}' '{"voter":"r1","entry":"cyd","rating":"nan"}' \
  '{"voter":"r1","entry":"cyd","rating":3.5}' > mixed.jsonl
rc 0 $PW vote import l mixed.jsonl --json; has out '"accepted":3'
for line in '2,"why":"left and right' '3,"why":"not JSON' '4,"why":"expected an object' "5,\"why\":\"choice 'maybe'" '8,"why":"rating'; do has out "{\"line\":$line"; done
rc 0 $PW vote import l mixed.jsonl;  has out 'mixed.jsonl:2: '; hasnot err 'mixed'
root=$($PW vote verify l --json); has <(echo "$root") '"votes":10'
refused 1 'none.csv' $PW vote import l none.csv
printf 'a,b\n1,2\n' > other.csv; refused 1 'header' $PW vote import l other.csv --json
: > empty.csv; refused 1 'empty' $PW vote import l empty.csv --json
refused 1 'no such ledger' $PW vote import none coins.csv
refused 1 'c.yaml' $PW vote import c.yaml coins.csv
same "the ledger after refusals" "$($PW vote verify l --json)" "$root"

# ---- negative and repeat: the contest's word ----
for how in zero:3:0 allow:1:-2; do
  IFS=: read -r negative total score <<< "$how"
  printf 'entries: [ada, bob]\nnegative: %s\nrepeat: replace\n' $negative > n.yaml; rm -f n; rc 0 $PW vote new n --contest n.yaml
  printf 'voter,entry,coins\nv,ada,5\nv,ada,3\nw,ada,-2\nw,bob,-2\n' > n.csv; rc 0 $PW vote import n n.csv --json; has out '"accepted":4'
  rc 0 $PW vote rank n --json; has out "\"entry\":\"ada\",\"rank\":1,\"score\":$total,"; has out "\"entry\":\"bob\",\"rank\":2,\"score\":$score,"
done

# ---- ranks ----
rc 0 $PW vote rank l --json; has out '"method":"coins"'; has out '"certificate":{'; hasnot out nan; cp out first
rc 0 $PW vote rank l --json; checks=$((checks + 1)); cmp -s out first || fail "two rankings of one ledger differ"
refused 2 'none of coins|quadratic' $PW vote rank l --method majority
refused 3 'takes no pairs ballots' $PW vote rank n --method bt --json
# sum of sign * sqrt|coins|, by hand
printf 'entries: [ada, bob]\nnegative: allow\n' > q.yaml; rc 0 $PW vote new q --contest q.yaml
printf 'voter,entry,coins\nu,ada,9\nv,ada,-4\nw,bob,4\n' > q.csv; rc 0 $PW vote import q q.csv
rc 0 $PW vote rank q --method quadratic --json; has out '"entry":"bob","rank":1,"score":2,'; has out '"entry":"ada","rank":2,"score":1,'

# ---- published, checked by others ----
rc 0 $PW vote export l -o published --json
refused 3 'exists' $PW vote export l -o published
rc 0 $PW vote verify l --csv published/ballots.csv
sed '3s/cyd/bob/' published/ballots.csv > forged.csv; refused 1 'forged.csv:' $PW vote verify l --csv forged.csv --json
head -n -1 published/ballots.csv > short.csv; refused 1 'short.csv' $PW vote verify l --csv short.csv
receipt=$(sed -n '2s/.*,//p' published/ballots.csv)
rc 0 $PW vote verify l --receipt "$receipt" --json; has out '"record":1'
refused 1 'receipt' $PW vote verify l --receipt "1:$(printf %064d 0)"; refused 2 'RECORD:HASH' $PW vote verify l --receipt x
hash=$({ printf 'pw-contest-1\n'; tr -d '\n' < published/contest.json; } | sha256sum | cut -d' ' -f1)
while IFS= read -r record; do hash=$(printf '%s\n%s' "$hash" "$record" | sha256sum | cut -d' ' -f1); done < published/records.jsonl
has <($PW vote verify l --json) "\"root\":\"$hash\""
# pseudonyms: no voter's name is published, the same key verifies, another does not
head -c 32 /dev/urandom | od -An -tx1 > key; head -c 32 /dev/urandom | od -An -tx1 > other-key; printf short > short-key
rc 0 $PW vote export l -o hidden --pseudonyms key
for voter in v1 v3 v10 p1 r1; do checks=$((checks + 1)); ! grep -rqE "(^|[,\"])$voter([,\"]|$)" hidden || fail "$voter is in a pseudonymous export"; done
rc 0 $PW vote verify l --csv hidden/ballots.csv --pseudonyms key
refused 1 'hidden/ballots.csv' $PW vote verify l --csv hidden/ballots.csv --pseudonyms other-key
refused 1 'hidden/ballots.csv' $PW vote verify l --csv hidden/ballots.csv
refused 3 'hides nobody' $PW vote export l -o hidden2 --pseudonyms short-key
refused 1 'none' $PW vote export l -o hidden2 --pseudonyms none
checks=$((checks + 1)); [ ! -e hidden2 ] || fail "a refused export left its folder"

# ---- a disk that is full: the ledger stays as it was ----
$PW vote verify l --json > before
for i in $(seq 5000); do echo "x$i,ada,1"; done | { echo voter,entry,coins; cat; } > many.csv
cp l before.db; ( ulimit -f $(( ($(stat -c %s l) + 51200) / 1024 )); $PW vote import l many.csv > out 2> err ); got=$?
same "exit of an import onto a full disk" $got 1; has err 'l: '
rc 0 $PW vote verify l --json; checks=$((checks + 1)); cmp -s out before || fail "an import onto a full disk changed the ledger"
rc 0 $PW vote import l many.csv --json; has out '"accepted":5000'
# ---- killed, and tampered with ----
for i in $(seq 200000); do echo "y$i,ada,1"; done | { echo voter,entry,coins; cat; } > huge.csv
$PW vote import l huge.csv > /dev/null 2>&1 & pid=$!; sleep 0.4; kill -9 $pid 2> /dev/null; wait $pid 2> /dev/null
rc 0 $PW vote verify l --json
votes=$(sed 's/.*"votes":\([0-9]*\).*/\1/' out); checks=$((checks + 1)); [ "$votes" = 5010 ] || [ "$votes" = 205010 ] || fail "a killed import left $votes votes"
$PW vote import l huge.csv > out 2> err & pid=$!; sleep 0.3; kill -INT $pid 2> /dev/null; wait $pid; got=$?
checks=$((checks + 1)); [ $got = 130 ] || [ $got = 0 ] || fail "an interrupted import: exit $got"
rc 0 $PW vote verify l
cp before.db forged; printf 'X' | dd of=forged bs=1 seek=$(grep -abo '"voter":"v3"' forged | head -1 | cut -d: -f1) conv=notrunc 2> /dev/null
refused 1 'forged' $PW vote verify forged --json
rc 1 bash -c "$PW vote rank q > /dev/full"

# ---- a limit of memory: the ledger stays as it was ----
# kept CODE LIMIT CMD...: that exit code under --memory LIMIT, and what was resident stayed below it
kept() { local want=$1 limit=$2 peak; shift 2; rc "$want" "$@" --memory "$limit" -v; peak=$(grep -oE '^at most [0-9]+' err | grep -oE '[0-9]+$')
         checks=$((checks + 1)); [ "${peak:-$limit}" -lt "$limit" ] || fail "$peak bytes were resident, at most $limit: $*"; }
least() { grep -oE -- '--memory [0-9]+ is the least' err | grep -oE '[0-9]+'; }
cp l at; rm -rf small; mkdir small
refused 3 'it does not fit into --memory: planned' $PW vote import at huge.csv --memory 1MiB; base=$(least); tight=$((base + 2097152)); wide=$((base + 201326592))
kept 3 $tight $PW vote import at huge.csv; has err 'pw: while importing huge.csv: '; has err ': it does not fit into --memory: '; has err ' more wanted, at most '
checks=$((checks + 1)); cmp -s l at && [ ! -e at-journal ] || fail "an import beyond --memory changed the ledger"
kept 3 $tight $PW vote rank at
kept 0 $wide $PW vote verify at; kept 0 $wide $PW vote rank at; kept 0 $wide $PW vote export at -o small/e
for i in $(seq 30000); do echo "z$i,ada,1"; done | { echo voter,entry,coins; cat; } > more.csv
kept 0 $wide $PW vote import at more.csv --json; has out '"accepted":30000'
printf 'contest: {entries: [a, b, c]}\nvoters: 60000\nseed: 3\nentries: {a: 0.1, b: 0.5, c: 0.9}\n' > s.yaml
kept 3 $tight $PW vote simulate s.yaml -o small/s; checks=$((checks + 1)); [ -z "$(ls -A small | grep -v '^e$')" ] || fail "beyond --memory: left $(ls -A small)"

# ---- simulated ----
printf 'contest: {entries: [a, b, c]}\nvoters: 50\nseed: 3\nentries: {a: 0.1, b: 0.5, c: 0.9}\n' > s.yaml
rc 0 $PW vote simulate s.yaml -o s1 --json; rc 0 $PW vote simulate s.yaml -o s2 --json
same "the same scenario" "$($PW vote verify s1 --json)" "$($PW vote verify s2 --json)"
rc 0 $PW vote rank s1 --json; has out '"entry":"c","rank":1'
refused 3 'exists' $PW vote simulate s.yaml -o s1
printf 'contest: {entries: [a]}\nvotres: 50\n' > bad.yaml; refused 1 "nearest: 'voters'" $PW vote simulate bad.yaml -o s3
checks=$((checks + 1)); [ ! -e s3 ] || fail "a refused scenario left a ledger"

echo "$checks checks, $failures failures"
[ $failures = 0 ]
