#!/bin/bash
#SBATCH --job-name=labels
#SBATCH --array=1-@{tasks}%@{at_once}
#SBATCH --nodes=1
#SBATCH --ntasks=@{cores}
#SBATCH --time=@{walltime}
#SBATCH --output=slurm-%A_%a.out
##SBATCH --partition=NAME
labels=$SLURM_SUBMIT_DIR
task=$SLURM_ARRAY_TASK_ID
@{body}
