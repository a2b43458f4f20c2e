#!/usr/bin/env bash
# From nothing to a report: install, draw the demo set, train on it, evaluate. Everything lies in runs/demo.
set -euo pipefail
cd "$(dirname "$0")/.."

python=${PYTHON:-python3}
"$python" - <<'PY' || { echo "quickstart: $python is too old or absent; install Python 3.11 or newer, or set PYTHON=" >&2; exit 2; }
import sys
sys.exit(sys.version_info < (3, 11))
PY
begin=$SECONDS
[ -x .venv/bin/python ] || "$python" -m venv .venv
echo "installing clipjax into .venv" >&2
.venv/bin/python -m pip install --quiet --disable-pip-version-check --editable .

.venv/bin/clipjax prepare demo --out=runs/demo/data
.venv/bin/clipjax train --config=configs/demo.py --workdir=runs/demo
.venv/bin/clipjax evaluate --checkpoint=runs/demo --data=runs/demo/data/zeroshot --data=runs/demo/data/retrieval \
  --out=runs/demo/report >runs/demo/results.txt
head -n -1 runs/demo/results.txt
echo "done in $((SECONDS - begin)) s; data, checkpoints, metrics and report are in runs/demo" >&2
echo "report: $PWD/runs/demo/report/report.html"
