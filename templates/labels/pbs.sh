#!/bin/bash
#PBS -N labels@{array}
#PBS -l select=1:ncpus=@{cores}:mpiprocs=@{cores}
#PBS -l walltime=@{walltime}
#PBS -j oe
##PBS -q NAME
labels=$PBS_O_WORKDIR
task=${PBS_ARRAY_INDEX:-1}
@{body}
