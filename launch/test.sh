#!/usr/bin/env bash
# Install what the tests need and run all of them, the slow ones too. Arguments go to pytest.
# The compiler for TPUs is among it: what it makes of a small step is tested, and no TPU is used.
set -euo pipefail
cd "$(dirname "$0")/.."

python=${PYTHON:-python3}
venv=${VENV:-.venv}
[ -x "$venv/bin/python" ] || "$python" -m venv "$venv"
"$venv/bin/python" -m pip install --quiet --disable-pip-version-check --editable '.[dev,tpu]'
# Its pins exclude current orbax, which it never imports.
"$venv/bin/python" -m pip install --quiet --disable-pip-version-check --no-deps 'jax2onnx==0.17.1'
"$venv/bin/ruff" check .
"$venv/bin/ruff" format --check .
exec "$venv/bin/python" -m pytest -m '' -n auto --dist loadfile "$@"
