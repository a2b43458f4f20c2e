#!/usr/bin/env bash
# Run a clipjax command in several processes of one machine, joined by JAX's own distributed runtime.
#   launch/local.sh --processes=2 [--devices=N] train --config=configs/demo.py --workdir=runs/demo
# --devices is the number of CPU devices a process (default 1). A signal goes to every process. The exit code is the
# first that is not 0; when one process fails, the others are ended.
set -euo pipefail

usage() { sed -n '2,5s/^# \{0,1\}//p' "$0"; }
fail() { echo "local.sh: $1" >&2; exit 2; }

processes='' devices=1
while [ $# -gt 0 ]; do
  case $1 in
    --processes=*) processes=${1#*=} ;;
    --devices=*) devices=${1#*=} ;;
    -h | --help) usage; exit 0 ;;
    *) break ;;
  esac
  shift
done
[[ $processes =~ ^[1-9][0-9]*$ ]] || fail "--processes='$processes' should be a whole number. See --help."
[[ $devices =~ ^[1-9][0-9]*$ ]] || fail "--devices='$devices' should be a whole number. See --help."
[ $# -gt 0 ] || fail "no command given. See --help."

python=${PYTHON:-}
here=$(cd "$(dirname "$0")/.." && pwd)
if [ -z "$python" ]; then
  python=$here/.venv/bin/python
  [ -x "$python" ] || python=python3
fi
port=$("$python" -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')

pids=()
forward() { for pid in "${pids[@]}"; do kill "-$1" "$pid" 2>/dev/null || true; done; }
signalled=0
trap 'signalled=1; forward TERM' TERM
trap 'signalled=1; forward INT' INT

for ((id = 0; id < processes; id++)); do
  CLIPJAX_COORDINATOR=127.0.0.1:$port CLIPJAX_PROCESSES=$processes CLIPJAX_PROCESS_ID=$id JAX_NUM_CPU_DEVICES=$devices \
    "$python" -m clipjax "$@" &
  pids+=($!)
done

code=0 left=$processes
while [ "$left" -gt 0 ]; do
  status=0
  wait -n || status=$?
  if [ "$signalled" -eq 1 ]; then # the trap ended `wait`, no process did
    signalled=0
    continue
  fi
  left=$((left - 1))
  if [ "$status" -ne 0 ] && [ "$code" -eq 0 ]; then
    code=$status
    [ "$status" -eq 75 ] || forward TERM
  fi
done
exit "$code"
