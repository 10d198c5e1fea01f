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
#   sbatch --nodes=8 launch/slurm.sh --config=configs/mlip.py:manifest --config.data.path=mimic.csv \
#     --config.model.text.init=Bio_ClinicalBERT --workdir=/shared/runs/mlip
# 300 s before the time is up, or when the job is preempted, SLURM sends TERM to the processes (not to this script): they save
# and end with 75, and the job goes back into the queue. So it does when a process is lost, up to RESTARTS times.
set -euo pipefail

trap : TERM # a preemption may send it here too: the script must not end before the run has saved

# NCCL finds the fabric by itself; JAX takes who is who from SLURM.
srun --kill-on-bad-exit=1 --wait=120 python -m medvlp_jax.train --stopped_code=75 "$@" &
run=$!
while :; do
  status=0
  wait "$run" || status=$?
  kill -0 "$run" 2>/dev/null || break # else only a signal ended the wait
done

[[ $status == 0 || $status == 2 ]] && exit "$status" # 2: a mistake that starting again does not mend
# A job that scancel ended, or that SLURM itself takes back into the queue, is not running any more.
if ((${SLURM_RESTART_COUNT:-0} < ${RESTARTS:-20})) && [[ $(scontrol show job "$SLURM_JOB_ID") == *JobState=RUNNING* ]]; then
  exec scontrol requeue "$SLURM_JOB_ID"
fi
exit "$status"
