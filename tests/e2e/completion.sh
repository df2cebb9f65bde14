#!/usr/bin/env bash
# Completion as a shell does it, with the scripts that `pw completion` prints: bash always, zsh and fish where they are installed.
set -u
T=$(mktemp -d); trap 'rm -rf "$T"' EXIT
PW=$PWD/pw; failures=0; checks=0
mkdir "$T/bin"; ln -s "$PW" "$T/bin/pw"; export PATH=$T/bin:$PATH
touch "$T/ballots.csv"; cd "$T" || exit 1
# expect NAME 'words that must be among the lines of $T/got' ['words that must not']
expect() {
  local w; checks=$((checks + 1))
  for w in $2; do grep -qx -- "$w" got || { failures=$((failures + 1)); echo "FAILED: $1: '$w' is missing among: $(tr '\n' ' ' < got | head -c 300)"; }; done
  for w in ${3-}; do if grep -qx -- "$w" got; then failures=$((failures + 1)); echo "FAILED: $1: '$w' should not be there"; fi; done
}
# all SHELL: the same questions to each; `ask WORDS...` completes the last word
all() {
  ask ""; expect "$1: commands" "train vote eval help completion" "import rank"
  ask tr; expect "$1: commands that begin with tr" "train" "vote"
  ask vote ""; expect "$1: the group vote" "new import rank verify export simulate" "train info"
  ask help vo; expect "$1: help" "vote"
  ask completion ""; expect "$1: shells" "bash zsh fish"
  ask vote rank l --me; expect "$1: options" "--method --memory" "--map"
  ask vote import l --; expect "$1: options of import" "--map --json --quiet" "--method"
  ask train r --; expect "$1: options of train" "--set --resume --dry-run --seed" "--map"
  ask vote rank l --method ""; expect "$1: choices" "coins quadratic bt" "--method"
}

# ---- bash ----
bash -n <("$PW" completion bash) || failures=$((failures + 1))
ask() { bash --norc -c 'source <(pw completion bash); complete -p pw > /dev/null || exit 1; COMP_WORDS=(pw "$@"); COMP_CWORD=$#; _pw; printf "%s\n" "${COMPREPLY[@]}"' - "$@" > got 2> err
        [ ! -s err ] || { failures=$((failures + 1)); echo "FAILED: bash: $(cat err)"; }; }
all bash
ask vote import l ball; expect "bash: files are the shell's" ""

# ---- zsh ----
if command -v zsh > /dev/null; then
  zsh -n <("$PW" completion zsh) || failures=$((failures + 1))
  # compadd is replaced by one that prints: what the function would offer, filtered by what is typed.
  ask() { zsh -f -c 'autoload -Uz compinit; compinit -D 2> /dev/null; source <(pw completion zsh); [[ $_comps[pw] == _pw ]] || print -u2 "not registered"
                     compadd() { shift; print -l -- "$@" }; _files() { : }
                     words=(pw "$@") CURRENT=$(($# + 1)); _pw' - "$@" 2> err | awk -v p="${*: -1}" 'index($0, p) == 1' > got
          [ ! -s err ] || { failures=$((failures + 1)); echo "FAILED: zsh: $(cat err)"; }; }
  all zsh
else echo "skipped: zsh is not installed"; fi

# ---- fish ----
if command -v fish > /dev/null; then
  export HOME=$T XDG_CONFIG_HOME=$T XDG_DATA_HOME=$T
  "$PW" completion fish > pw.fish; fish --no-execute pw.fish || failures=$((failures + 1))
  ask() { local line="pw" w; for w in "$@"; do line+=" $w"; done; fish --no-config -c "source pw.fish; complete -C '$line'" 2> err | cut -f1 > got
          [ ! -s err ] || { failures=$((failures + 1)); echo "FAILED: fish: $(cat err)"; }; }
  all fish
  ask vote import l ball; expect "fish: files" "ballots.csv"
else echo "skipped: fish is not installed"; fi

checks=$((checks + 1)); "$PW" completion tcsh > got 2> err; [ $? = 2 ] || { failures=$((failures + 1)); echo "FAILED: an unknown shell"; }
echo "$checks checks, $failures failures"
[ $failures = 0 ]
