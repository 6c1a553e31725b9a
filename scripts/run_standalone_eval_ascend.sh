#!/bin/sh
# usage: bash scripts/run_standalone_eval_ascend.sh [--NAME VALUE]...
# Evaluates every checkpoint of ./ckpt_0 (or --checkpoint_path); the exit code is the evaluation's.
root=$(cd "$(dirname "$0")/.." && pwd) || exit 1
# The interpreter: $PYTHON, that of an activated environment, that of `make`, the system's.
[ -n "$PYTHON$VIRTUAL_ENV" ] || [ ! -x "$root/.venv/bin/python" ] || PYTHON=$root/.venv/bin/python
# The output is shown, and appended to eval.log in the current folder.
export SERESNEXT_LOG=eval.log
exec "${PYTHON:-python3}" "$root/eval.py" "$@"
