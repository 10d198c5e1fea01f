#!/usr/bin/env bash
#SBATCH --job-name=medvlp
#SBATCH --nodes=8
#SBATCH --ntasks-per-node=8
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=12
#SBATCH --time=24:00:00
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --signal=TERM@300
#SBATCH --output=%x-%j.log
# One process a GPU on several nodes; sizes by sbatch's own options:
#   sbatch --nodes=8 launch/slurm.sh --config=configs/mlip.py:manifest --config.data.path=mimic.csv --workdir=/shared/runs/mlip
# TERM comes 300 s before the time is up or when the job is preempted: the run saves, and the job goes back into the queue.
set -euo pipefail

# The signal is srun's to pass on; this script only must not die of it before the run has saved.
trap 'asked=1' TERM

# NCCL finds the fabric by itself; JAX takes who is who from SLURM.
status=0
srun --kill-on-bad-exit=1 --wait=120 python -m medvlp_jax.train "$@" &
wait $! || { status=$?; [[ -n "${asked:-}" ]] && status=0 && wait; }

# Saved at a signal, or another process lost (3): from the queue again, up to 20 times.
if [[ -n "${asked:-}" || $status == 3 ]] && ((${SLURM_RESTART_COUNT:-0} < 20)); then
  exec scontrol requeue "$SLURM_JOB_ID"
fi
exit "$status"
