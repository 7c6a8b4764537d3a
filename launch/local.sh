#!/usr/bin/env bash
# Starts N processes of one program on this machine:  launch/local.sh N -- command...
#
# Each finds the others through JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and JAX_PROCESS_ID, and its
# output lines begin with [its number]. When one fails, the others are ended and its code is the exit
# code. SIGTERM and SIGINT are passed on, once; then all are waited for, however long they save.
# A script given as the command should `exec` its program: what outlives the script is killed.
set -euo pipefail

if [[ ! ${1-} =~ ^[1-9][0-9]*$ || ${2-} != -- || $# -lt 3 ]]; then
  echo "usage: launch/local.sh N -- command..." >&2
  exit 2
fi
count=$1
shift 2
grace=20 # seconds between being asked to end and being killed, once one has failed

export JAX_NUM_PROCESSES=$count
JAX_COORDINATOR_ADDRESS=127.0.0.1:$(python3 -c '
import socket
with socket.socket() as s:
    s.bind(("127.0.0.1", 0))
    print(s.getsockname()[1])')
export JAX_COORDINATOR_ADDRESS

pipes=$(mktemp -d)
running=() # by process number: the process, which is also the id of its process group
printers=()
first_failure=0
deadline=
asked=

signal_all() {
  for pid in "${running[@]}"; do kill -"$1" -- "-$pid" 2>/dev/null || true; done
}
ask_to_end() {
  [[ -z $asked ]] || return 0
  asked=yes
  signal_all "$1"
}
trap 'signal_all KILL; rm -rf "$pipes"' EXIT

for ((i = 0; i < count; i++)); do
  mkfifo "$pipes/$i"
  # Outlives the signals to show the last words.
  (trap '' INT TERM && exec sed -u "s/^/[$i] /" <"$pipes/$i") &
  printers+=($!)
  exec 3>"$pipes/$i" # here, so that the printer sees an end even if the process never begins
  set -m # a process group for each; without it, bash would also have them ignore SIGINT
  JAX_PROCESS_ID=$i "$@" </dev/null >&3 2>&1 3>&- &
  set +m
  exec 3>&-
  running[i]=$!
done

trap 'ask_to_end TERM' TERM
trap 'ask_to_end INT' INT

# Polled, because `wait -n` forgets processes that end between two calls.
while ((${#running[@]})); do
  for i in "${!running[@]}"; do
    pid=${running[i]}
    kill -0 "$pid" 2>/dev/null && continue
    code=0
    wait "$pid" || code=$?
    kill -KILL -- "-$pid" 2>/dev/null || true # what it left behind
    unset "running[i]"
    if ((code && !first_failure)); then
      echo "launch/local.sh: process $i failed with exit code $code" >&2
      first_failure=$code
      deadline=$((SECONDS + grace))
      ask_to_end TERM
    fi
  done
  if [[ -n $deadline ]] && ((SECONDS > deadline)); then signal_all KILL; fi
  sleep 0.1 || true # a terminal sends Ctrl-C to it too
done
wait "${printers[@]}"
exit "$first_failure"
