#!/bin/bash
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=8
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=4
#SBATCH --time=04:00:00
#SBATCH --signal=TERM@90
#SBATCH --requeue
#SBATCH --open-mode=append
# One task a GPU: a task that sees eight would use one of them, and is refused.
srun eqcifar train --distributed --arch wrn28-10 --out "$HOME/results" || code=$?
# 75: saved, and to be started again.
if [ "${code:-0}" -eq 75 ]; then scontrol requeue "$SLURM_JOB_ID"; fi
exit "${code:-0}"
