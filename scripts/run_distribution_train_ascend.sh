#!/bin/sh
# usage: bash scripts/run_distribution_train_ascend.sh RANK_TABLE_FILE imagenet [--server_id IP]
#        [--NAME VALUE]... [-- OTHER FLAGS]
# Trains on every device that the table has for this server; waits for all of them.
root=$(cd "$(dirname "$0")/.." && pwd) || exit 1
# The interpreter: $PYTHON, that of an activated environment, that of `make`, the system's.
[ -n "$PYTHON$VIRTUAL_ENV" ] || [ ! -x "$root/.venv/bin/python" ] || PYTHON=$root/.venv/bin/python
exec "${PYTHON:-python3}" -m seresnext.zoo.launch "$@"
