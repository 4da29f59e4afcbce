#!/bin/bash
#SBATCH --nodes=1
#SBATCH --ntasks=1
#SBATCH --cpus-per-task=@{threads}
#SBATCH --time=@{walltime}
##SBATCH --partition=NAME
##SBATCH --gres=gpu:1
export OMP_NUM_THREADS=@{threads}
export PATH="@{bin}:$PATH"
