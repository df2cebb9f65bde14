#!/usr/bin/env bash
# tools/bootstrap and tools/config on machines that lack things: a PATH with a shell and little else.
set -u
T=$(mktemp -d); trap 'rm -rf "$T"' EXIT
failures=0; checks=0
fail() { failures=$((failures + 1)); echo "FAILED: $*"; }
chmod 755 "$T"; mkdir -m 755 "$T/bin" "$T/debian"; cp tools/bootstrap "$T/bootstrap"; chmod 755 "$T/bootstrap"
for t in bash env id; do ln -s "$(command -v $t)" "$T/bin/$t"; ln -s "$(command -v $t)" "$T/debian/$t"; done
printf '#!/bin/sh\nexit 100\n' > "$T/debian/apt-get"; cp "$T/debian/apt-get" "$T/debian/dpkg"; chmod 755 "$T"/debian/*-* "$T/debian/dpkg"
as=(); if [ "$(id -u)" = 0 ]; then if command -v setpriv > /dev/null; then as=(setpriv --reuid=65534 --regid=65534 --clear-groups); else echo "skipped: setpriv is not there"; exit 0; fi; fi

# ---- Debian-like, no right to install: the exact line on stdout, alone, and exit 1 ----
for flag in "" --quiet; do
  ${as[@]+"${as[@]}"} env -i PATH="$T/debian" "$T/bootstrap" $flag > "$T/out" 2> "$T/err" < /dev/null; got=$?
  checks=$((checks + 3)); [ $got = 1 ] || fail "without rights: exit $got"
  line=$(bash -c "$(sed -n '/^PACKAGES=(/,/)/p' tools/bootstrap); echo \"\${PACKAGES[*]}\"")
  [ "$(cat "$T/out")" = "sudo apt-get install -y --no-install-recommends $line" ] || fail "the line is: $(cat "$T/out")"
  grep -q '^missing: gcc' "$T/err" || fail "what is missing is not said: $(cat "$T/err")"
done
# ---- not Debian-like ----
env -i PATH="$T/bin" "$T/bootstrap" > "$T/out" 2> "$T/err" < /dev/null; got=$?
checks=$((checks + 2)); [ $got = 1 ] || fail "not Debian-like: exit $got"; grep -q 'not a Debian-like machine' "$T/err" || fail "no word of it: $(cat "$T/err")"
"$T/bootstrap" --help > /dev/null 2>&1; got=$?; checks=$((checks + 1)); [ $got = 2 ] || fail "an unknown option: exit $got"
# ---- with MPI ----
${as[@]+"${as[@]}"} env -i PATH="$T/debian" "$T/bootstrap" --all > "$T/out" 2> "$T/err" < /dev/null; got=$?
checks=$((checks + 2)); [ $got = 1 ] || fail "--all without rights: exit $got"; [ "$(cat "$T/out")" = "sudo apt-get install -y --no-install-recommends $line libopenmpi-dev openmpi-bin" ] || fail "the line of --all is: $(cat "$T/out")"
grep -q '^missing: .* MPI$' "$T/err" || fail "MPI is not said to be missing: $(cat "$T/err")"
# ---- all there: nothing to say ----
tools/bootstrap --quiet > "$T/out" 2> "$T/err"; got=$?; checks=$((checks + 1)); { [ $got = 0 ] && [ ! -s "$T/out" ] && [ ! -s "$T/err" ]; } || fail "with all packages there: $got $(cat "$T/err")"

# ---- the table says what was found, nvcc too ----
tools/config > "$T/out"; for row in gcc make jansson hdf5 openblas sqlite3 libzstd MPI nvcc processor; do checks=$((checks + 1)); grep -q "^$row  *[^ ]" "$T/out" || fail "no row $row"; done
printf '#!/bin/sh\necho "Cuda compilation tools, release 98.7, V98.7.6"\n' > "$T/bin/nvcc"; chmod 755 "$T/bin/nvcc"
PATH=$T/bin:$PATH tools/config > "$T/out"; checks=$((checks + 1)); grep -q '^nvcc  *98.7 .*CUDA' "$T/out" || fail "nvcc was not found: $(grep nvcc "$T/out")"
printf '#!/bin/sh\nexit 1\n' > "$T/bin/pkg-config"; chmod 755 "$T/bin/pkg-config"
PATH=$T/bin:$PATH tools/config > "$T/out"; checks=$((checks + 2)); grep -q '^hdf5  *missing' "$T/out" || fail "hdf5 is said to be there"; grep -q 'tools/bootstrap installs' "$T/out" || fail "no way out"

echo "$checks checks, $failures failures"
[ $failures = 0 ]
