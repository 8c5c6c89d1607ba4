#!/usr/bin/env bash
# Test in GPUS processes on this machine: tools/dist_test.sh CONFIG CHECKPOINT GPUS [options of tools/test.py]
# Several machines and PORT: as tools/dist_train.sh.
set -euo pipefail
if [ $# -lt 3 ]; then
    echo "usage: $0 CONFIG CHECKPOINT GPUS [options of tools/test.py]" >&2
    exit 2
fi
CONFIG=$1
CHECKPOINT=$2
GPUS=$3
TOOLS=$(cd "$(dirname "$0")" && pwd)
source "$TOOLS/dist_env.sh"
exec "${LAUNCH[@]}" --nproc-per-node="$GPUS" "$TOOLS/test.py" "$CONFIG" "$CHECKPOINT" --launcher pytorch "${@:4}"
