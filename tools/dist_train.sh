#!/usr/bin/env bash
# Train in GPUS processes on this machine: tools/dist_train.sh CONFIG GPUS [options of tools/train.py]
# Without GPUs the processes talk over gloo. Several machines: run it on each with NNODES, NODE_RANK, MASTER_ADDR
# (of rank 0) and PORT set. One machine: a free port is found, unless PORT names one.
set -euo pipefail
if [ $# -lt 2 ]; then
    echo "usage: $0 CONFIG GPUS [options of tools/train.py]" >&2
    exit 2
fi
CONFIG=$1
GPUS=$2
TOOLS=$(cd "$(dirname "$0")" && pwd)
source "$TOOLS/dist_env.sh"
exec "${LAUNCH[@]}" --nproc-per-node="$GPUS" "$TOOLS/train.py" "$CONFIG" --launcher pytorch "${@:3}"
