#!/usr/bin/env bash
# Train on a Cloud TPU slice: create or reuse it, install on every worker, run, stream the log, restart on preemption.
#   launch/tpu_pod.sh --name=l14 --zone=us-west4-a --type=v5litepod-64 --version=v2-alpha-tpuv5-lite [--project=P] \
#     [--spot] [--dry-run] train --config=configs/vit_l14.py --workdir=gs://bucket/runs/l14
#   launch/tpu_pod.sh --name=l14 --zone=us-west4-a --stop      save on all workers, and end
#   launch/tpu_pod.sh --name=l14 --zone=us-west4-a --delete    give the slice back
# Run again, it joins the run that it finds. Ctrl-C leaves the run alone. --dry-run prints the gcloud commands and runs
# none. The exit code is that of the run.
set -euo pipefail

usage() { sed -n '2,9s/^# \{0,1\}//p' "$0"; }
fail() { echo "tpu_pod.sh: $1" >&2; exit 2; }
say() { echo "tpu_pod.sh: $1" >&2; }

name='' zone='' type='' version='' task=run dry='' place=() create=()
while [ $# -gt 0 ]; do
  case $1 in
    --name=*) name=${1#*=} ;;
    --zone=*) zone=${1#*=} ;;
    --type=*) type=${1#*=} ;;
    --version=*) version=${1#*=} ;;
    --project=*) place+=("--project=${1#*=}") ;;
    --spot) create+=(--spot) ;;
    --stop) task=stop ;;
    --delete) task=delete ;;
    --dry-run) dry=1 ;;
    -h | --help) usage; exit 0 ;;
    *) break ;;
  esac
  shift
done
[ -n "$name" ] && [ -n "$zone" ] || fail "--name and --zone say which slice. See --help."
place+=("--zone=$zone")
if [ "$task" = run ]; then
  [ -n "$type" ] && [ -n "$version" ] || fail "--type and --version say what slice to create. See --help."
  [ $# -gt 0 ] || fail "no command given. See --help."
fi
pause=${CLIPJAX_PAUSE:-30} # seconds before a question is asked again
here=$(cd "$(dirname "$0")/.." && pwd)
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

tpu() {
  if [ -n "$dry" ]; then
    printf '%q ' gcloud compute tpus tpu-vm "$@"
    echo
  else
    gcloud compute tpus tpu-vm "$@"
  fi
}
on_workers() { tpu ssh "$name" "${place[@]}" "--worker=$1" "--command=$2"; }
state() { gcloud compute tpus tpu-vm describe "$name" "${place[@]}" '--format=value(state)' 2>/dev/null || true; }

# A slice in state READY; one that was preempted is deleted and asked for anew, until there is one.
ensure() {
  if [ -n "$dry" ]; then
    tpu describe "$name" "${place[@]}" '--format=value(state)'
    tpu create "$name" "${place[@]}" "--accelerator-type=$type" "--version=$version" "${create[@]}"
    return
  fi
  while :; do
    case $(state) in
      READY) return ;;
      CREATING | STARTING | RESTARTING | REPAIRING) sleep "$pause" ;;
      '')
        say "creating $name ($type)"
        tpu create "$name" "${place[@]}" "--accelerator-type=$type" "--version=$version" "${create[@]}" >&2 ||
          sleep "$pause"
        ;;
      *)
        say "$name is gone; deleting what is left of it"
        tpu delete "$name" "${place[@]}" --quiet >&2 || sleep "$pause"
        ;;
    esac
  done
}

# Whether the run of a worker is under way: started, without an exit code, and there.
# shellcheck disable=SC2016  # expanded on the worker
running='[ -e clipjax/run.pid ] && [ ! -e clipjax/run.code ] && kill -0 $(cat clipjax/run.pid) 2>/dev/null'

# This checkout on every worker, in ~/clipjax with a .venv; the images' own Python is older than 3.11.
install() {
  local packed=clipjax.tar.gz
  if [ -z "$dry" ]; then
    packed=$scratch/clipjax.tar.gz
    tar -czf "$packed" -C "$here" --exclude=./.git --exclude=./.venv --exclude=./runs --exclude=./.pytest_cache .
  fi
  tpu scp "$packed" "$name:clipjax.tar.gz" "${place[@]}" --worker=all
  on_workers all "set -e; if $running; then exit 0; fi; mkdir -p clipjax; tar -xzf clipjax.tar.gz -C clipjax; \
cd clipjax; \
command -v python3.11 >/dev/null || { sudo apt-get update -q; sudo apt-get install -yq python3.11 python3.11-venv; }; \
[ -x .venv/bin/python ] || python3.11 -m venv .venv; .venv/bin/python -m pip install -q '.[tpu,gcs]'"
}

# The run on all workers, apart from the connection, with its exit code in a file; then its log, until it ends.
run() {
  local command
  command=$(printf '%q ' "$@")
  command="CLIPJAX_COORDINATOR=auto .venv/bin/python -m clipjax $command; echo \$? >run.part; mv run.part run.code"
  command="if ! { $running; }; then (cd clipjax; rm -f run.code run.stop run.log; touch run.log; \
nohup setsid bash -c $(printf '%q' "$command") >run.log 2>&1 </dev/null & echo \$! >run.pid); fi; \
tail -n +1 -F clipjax/run.log 2>/dev/null & log=\$!; while $running; do sleep 1; done; sleep 1; kill \$log"
  on_workers all "$command" || true # what came of it stands in run.code
}

case $task in
  # the shell around the run stays, to write its exit code
  stop) on_workers all "cd clipjax; touch run.stop; pkill -TERM -P \$(cat run.pid)" ;;
  delete) tpu delete "$name" "${place[@]}" --quiet ;;
  run)
    while :; do
      ensure
      install
      run "$@"
      [ -z "$dry" ] || exit 0
      code=$(on_workers 0 'cat clipjax/run.code' 2>/dev/null || true)
      case $code in
        75)
          if on_workers 0 'test -e clipjax/run.stop' 2>/dev/null; then
            say "stopped; the state is saved"
            exit 75
          fi
          say "the run saved and stopped; it goes on"
          ;;
        [0-9]*) exit "$code" ;;
        *) say "the workers do not answer; looking for them again" ;;
      esac
      sleep "$pause"
    done
    ;;
esac
