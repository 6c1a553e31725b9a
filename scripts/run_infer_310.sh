#!/bin/sh
# usage: bash scripts/run_infer_310.sh MINDIR_PATH DATASET_NAME DATASET_PATH NEED_PREPROCESS(y|n)
#        [DEVICE_ID] [--resize short|stretch] [--device_target CPU|Ascend]
# Writes preprocess_Result/, result_Files/, time_Result/ and acc.log into the current folder.
root=$(cd "$(dirname "$0")/.." && pwd) || exit 1
# The interpreter: $PYTHON, that of an activated environment, that of `make`, the system's.
[ -n "$PYTHON$VIRTUAL_ENV" ] || [ ! -x "$root/.venv/bin/python" ] || PYTHON=$root/.venv/bin/python
# The output is shown, and appended to infer.log in the current folder.
export SERESNEXT_LOG=infer.log
exec "${PYTHON:-python3}" -m seresnext.zoo.infer_310 "$@"
