#!/bin/bash
#PBS -N labels
#PBS -J 1-@{jobs}%@{at_once}
#PBS -l select=1:ncpus=@{cores}:mpiprocs=@{cores}
#PBS -l walltime=@{walltime}
#PBS -j oe
##PBS -q NAME
# One structure per task: its folder is a line of jobs-@{number}.txt. In this folder: qsub pbs-@{number}.sh
# PBS takes no array of one job: for a single structure remove the -J line.
cd "$PBS_O_WORKDIR/$(sed -n "${PBS_ARRAY_INDEX:-1}p" "$PBS_O_WORKDIR/jobs-@{number}.txt")" || exit 1
export OMP_NUM_THREADS=1
@{done} && exit 0   # computed before
@{command}
