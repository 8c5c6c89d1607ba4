# Sourced by dist_train.sh and dist_test.sh: the launcher, from the environment.
export PYTHONPATH="$TOOLS/..${PYTHONPATH:+:$PYTHONPATH}"
LAUNCH=("${PYTHON:-python}" -m torch.distributed.run)
if [ "${NNODES:-1}" = 1 ] && [ -z "${PORT:-}" ]; then
    # a free port, so that two jobs on one machine do not meet; the address needs no working host name
    LAUNCH+=(--standalone --local-addr=127.0.0.1)
else
    LAUNCH+=(--nnodes="${NNODES:-1}" --node-rank="${NODE_RANK:-0}" --master-addr="${MASTER_ADDR:-127.0.0.1}"
             --master-port="${PORT:-29500}")
fi
