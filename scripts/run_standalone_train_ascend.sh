#!/bin/sh
# usage: bash scripts/run_standalone_train_ascend.sh [DEVICE_ID] [--NAME VALUE]... [-- OTHER FLAGS]
# Trains on one device, in the foreground; the exit code is the training's.
root=$(cd "$(dirname "$0")/.." && pwd) || exit 1
device=0
case "$1" in
    '' | -*) ;;
    *[!0-9]*) echo "$0: error: DEVICE_ID: expected a number, got $1" >&2; exit 1 ;;
    *) device=$1; shift ;;
esac
# The interpreter: $PYTHON, that of an activated environment, that of `make`, the system's.
[ -n "$PYTHON$VIRTUAL_ENV" ] || [ ! -x "$root/.venv/bin/python" ] || PYTHON=$root/.venv/bin/python
# The output is shown, and appended to train.log in the current folder.
export SERESNEXT_LOG=train.log
exec "${PYTHON:-python3}" "$root/train.py" --device_id "$device" "$@"
