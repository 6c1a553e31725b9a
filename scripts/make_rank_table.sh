#!/bin/sh
# usage: bash scripts/make_rank_table.sh --server IP:DEVICES [--server IP:DEVICES]...
#        [--hccn IP=FILE]... [--out FILE]
# Writes the rank table of run_distribution_train_ascend.sh, as the model zoo's hccl_tools.py did.
root=$(cd "$(dirname "$0")/.." && pwd) || exit 1
# The interpreter: $PYTHON, that of an activated environment, that of `make`, the system's.
[ -n "$PYTHON$VIRTUAL_ENV" ] || [ ! -x "$root/.venv/bin/python" ] || PYTHON=$root/.venv/bin/python
exec "${PYTHON:-python3}" -m seresnext.zoo.make_rank_table "$@"
