#!/usr/bin/env bash
# Train on a SLURM cluster: one process a node or a GPU, joined by JAX's distributed runtime, requeued on exit code 75.
#   launch/slurm.sh --nodes=4 [--gpus-per-node=8] [--per=node|gpu] [--time=24:00:00] [--signal=180] [--dry-run] \
#     [--sbatch=OPTION]... train --config=configs/vit_l14.py --workdir=/shared/runs/l14
# --per says what a process is for (default gpu; without GPUs node). --signal is how many seconds before its end the job
# is asked to save (default 180). --sbatch passes an option on, such as --sbatch=--partition=gpu. --dry-run prints the
# job and submits nothing. The python of PYTHON=, else of .venv here, has to be there on every node.
set -euo pipefail

usage() { sed -n '2,7s/^# \{0,1\}//p' "$0"; }
fail() { echo "slurm.sh: $1" >&2; exit 2; }

nodes='' gpus=0 per='' time=24:00:00 signal=180 dry='' extra=()
while [ $# -gt 0 ]; do
  case $1 in
    --nodes=*) nodes=${1#*=} ;;
    --gpus-per-node=*) gpus=${1#*=} ;;
    --per=*) per=${1#*=} ;;
    --time=*) time=${1#*=} ;;
    --signal=*) signal=${1#*=} ;;
    --sbatch=*) extra+=("${1#*=}") ;;
    --dry-run) dry=1 ;;
    -h | --help) usage; exit 0 ;;
    *) break ;;
  esac
  shift
done
whole='^[1-9][0-9]*$'
[[ $nodes =~ $whole ]] || fail "--nodes='$nodes' should be a whole number. See --help."
[[ $gpus =~ ^[0-9]+$ ]] || fail "--gpus-per-node='$gpus' should be a whole number. See --help."
[[ $signal =~ $whole ]] || fail "--signal='$signal' should be whole seconds. See --help."
[ -n "$per" ] || per=$([ "$gpus" -gt 0 ] && echo gpu || echo node)
case $per in
  node) tasks=1 ;;
  gpu) [ "$gpus" -gt 0 ] || fail "--per=gpu needs --gpus-per-node. See --help."; tasks=$gpus ;;
  *) fail "--per='$per' should be node or gpu. See --help." ;;
esac
[ $# -gt 0 ] || fail "no command given. See --help."

here=$(cd "$(dirname "$0")/.." && pwd)
python=${PYTHON:-}
if [ -z "$python" ]; then
  python=$here/.venv/bin/python
  [ -x "$python" ] || python=python3
fi

# TERM goes to the tasks, which save together and exit with 75; the script itself waits for them.
options=(--job-name=clipjax "--nodes=$nodes" "--ntasks-per-node=$tasks" "--time=$time" --requeue --open-mode=append
  --output=clipjax-%j.out "--signal=TERM@$signal")
[ "$gpus" -eq 0 ] || options+=("--gpus-per-node=$gpus")

# What each task runs. Who it is comes from SLURM; a process a GPU sees that GPU alone.
# shellcheck disable=SC2016  # expanded where the task runs
task='export CLIPJAX_PROCESS_ID=$SLURM_PROCID CLIPJAX_PROCESSES=$SLURM_NTASKS; '
# shellcheck disable=SC2016
[ "$per" = node ] || task+='export CUDA_VISIBLE_DEVICES=$SLURM_LOCALID; '
task+='exec "$@"'
job() {
  cat <<JOB
#!/usr/bin/env bash
set -uo pipefail
first=\$(scontrol show hostnames "\$SLURM_JOB_NODELIST" | head -n 1)
export CLIPJAX_COORDINATOR=\$first:\$((20000 + SLURM_JOB_ID % 20000))
# A task that exits with 75 must not end those that still save; --wait ends what a fault of one leaves behind.
srun --kill-on-bad-exit=0 --wait=600 bash -c $(printf '%q' "$task") task $(printf '%q ' "$python" -m clipjax "$@")&
trap 'signalled=1' TERM
while :; do
  signalled=''
  wait \$!
  code=\$?
  [ -n "\$signalled" ] || break # else it was the signal that ended the wait
done
# Not after scancel, when the job is no longer running.
if [ "\$code" -eq 75 ] && [ "\$(squeue --noheader --jobs="\$SLURM_JOB_ID" --format=%T)" = RUNNING ]; then
  echo "saved; job \$SLURM_JOB_ID goes back into the queue" >&2
  scontrol requeue "\$SLURM_JOB_ID"
fi
exit "\$code"
JOB
}

if [ -n "$dry" ]; then
  printf '%q ' sbatch "${options[@]}" "${extra[@]}"
  printf '<<JOB\n'
  job "$@"
  printf 'JOB\n'
  exit 0
fi
job "$@" | exec sbatch "${options[@]}" "${extra[@]}"
