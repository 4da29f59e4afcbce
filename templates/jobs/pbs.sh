#!/bin/bash
#PBS -l nodes=1:ppn=@{threads}
#PBS -l walltime=@{walltime}
##PBS -q NAME
export OMP_NUM_THREADS=@{threads}
export PATH="@{bin}:$PATH"
