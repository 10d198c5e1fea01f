#!/usr/bin/env bash
# Several processes on this machine, each with its share of the devices:
#   launch/local.sh 2 --config=configs/mlip.py:quickstart --workdir=runs/mlip
# A process that is lost ends the others within a minute, and all start again (RESTARTS times); Ctrl-C saves and ends.
set -euo pipefail

processes=$1
shift
restarts=${RESTARTS:-3}
port=${PORT:-$((20000 + RANDOM % 20000))}
pids=()
asked=
trap 'asked=1; kill -TERM ${pids[@]+"${pids[@]}"} 2>/dev/null || true' TERM INT

for ((attempt = 0; attempt <= restarts; attempt++)); do
  pids=()
  for ((i = 0; i < processes; i++)); do
    # A GPU each, if there are any; on CPUs JAX_NUM_CPU_DEVICES=N gives each N devices.
    CUDA_VISIBLE_DEVICES=$i JAX_COORDINATOR_ADDRESS=127.0.0.1:$((port + attempt)) JAX_NUM_PROCESSES=$processes JAX_PROCESS_ID=$i \
      python -m medvlp_jax.train "$@" &
    pids+=($!)
  done
  if [[ -n $asked ]]; then kill -TERM "${pids[@]}" 2>/dev/null || true; fi # it came while they were being started
  failed=0
  for pid in "${pids[@]}"; do
    # A trapped signal ends the first wait early; the second one gives the process's own exit code.
    wait "$pid" || { wait "$pid" 2>/dev/null || failed=$?; }
  done
  [[ $failed == 0 || $failed == 2 ]] && exit "$failed" # 2: a mistake that starting again does not mend
  [[ -n $asked ]] && exit "$failed"                    # before there was anything to save
  echo "attempt $((attempt + 1)) ended with $failed" >&2
done
exit "$failed"
