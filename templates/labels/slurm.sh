#!/bin/bash
#SBATCH --job-name=labels
#SBATCH --array=1-@{jobs}%@{at_once}
#SBATCH --nodes=1
#SBATCH --ntasks=@{cores}
#SBATCH --time=@{walltime}
#SBATCH --output=slurm-%A_%a.out
##SBATCH --partition=NAME
# One structure per task: its folder is a line of jobs-@{number}.txt. In this folder: sbatch slurm-@{number}.sh
cd "$SLURM_SUBMIT_DIR/$(sed -n "${SLURM_ARRAY_TASK_ID}p" "$SLURM_SUBMIT_DIR/jobs-@{number}.txt")" || exit 1
export OMP_NUM_THREADS=1
@{done} && exit 0   # computed before
@{command}
