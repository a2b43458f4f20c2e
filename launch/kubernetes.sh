#!/usr/bin/env bash
# Train on Kubernetes: fill in launch/kubernetes.yaml, a JobSet of one pod a host, and hand it to kubectl.
#   launch/kubernetes.sh --name=l14 --image=registry/clipjax:1 --hosts=4 [--devices=nvidia.com/gpu:8] \
#     [--node=KEY:VALUE]... [--dry-run] train --config=configs/vit_l14.py --workdir=gs://bucket/runs/l14
#   launch/kubernetes.sh --name=l14 --stop [--dry-run]    save on all hosts, and end
# --devices is what a pod asks for, --node a label that its node has. --dry-run prints what kubectl would be given.
set -euo pipefail

usage() { sed -n '2,6s/^# \{0,1\}//p' "$0"; }
fail() { echo "kubernetes.sh: $1" >&2; exit 2; }

name='' image='' hosts='' devices='' nodes=() stop='' dry=''
while [ $# -gt 0 ]; do
  case $1 in
    --name=*) name=${1#*=} ;;
    --image=*) image=${1#*=} ;;
    --hosts=*) hosts=${1#*=} ;;
    --devices=*) devices=${1#*=} ;;
    --node=*) nodes+=("${1#*=}") ;;
    --stop) stop=1 ;;
    --dry-run) dry=1 ;;
    -h | --help) usage; exit 0 ;;
    *) break ;;
  esac
  shift
done
# JobSet makes host names of it: name-hosts-0-0.name
[[ $name =~ ^[a-z]([-a-z0-9]{0,38}[a-z0-9])?$ ]] ||
  fail "--name='$name' should be at most 40 small letters, digits and hyphens. See --help."
if [ -n "$stop" ]; then
  [ -z "$dry" ] || { echo "kubectl delete jobset $name"; exit 0; }
  exec kubectl delete jobset "$name"
fi
[ -n "$image" ] || fail "--image names no image. See --help."
[[ $hosts =~ ^[1-9][0-9]*$ ]] || fail "--hosts='$hosts' should be a whole number. See --help."
for pair in ${devices:+"$devices"} "${nodes[@]}"; do
  [[ $pair == ?*:?* ]] || fail "'$pair' should read KEY:VALUE. See --help."
done
[ $# -gt 0 ] || fail "no command given. See --help."

# Values go in as JSON, which is YAML too, so that nothing in them can be taken for a key.
here=$(cd "$(dirname "$0")" && pwd)
quoted() {
  local text=${1//\\/\\\\}
  printf '"%s"' "${text//\"/\\\"}"
}
pairs() { # KEY:VALUE... as a map
  local comma='' pair
  for pair in "$@"; do
    printf '%s%s: %s' "$comma" "$(quoted "${pair%:*}")" "$(quoted "${pair##*:}")"
    comma=', '
  done
}
arguments=$(for word in "$@"; do printf '%s, ' "$(quoted "$word")"; done)
filled=$(<"$here/kubernetes.yaml")
filled=${filled//'{NAME}'/"$name"}
filled=${filled//'{HOSTS}'/"$hosts"}
filled=${filled//'{IMAGE}'/"$(quoted "$image")"}
filled=${filled//'{DEVICES}'/"$(pairs ${devices:+"$devices"})"}
filled=${filled//'{NODE}'/"$(pairs "${nodes[@]}")"}
filled=${filled//'{ARGUMENTS}'/"${arguments%, }"}
if [ -n "$dry" ]; then
  printf '%s\n' "$filled"
else
  printf '%s\n' "$filled" | exec kubectl apply -f -
fi
