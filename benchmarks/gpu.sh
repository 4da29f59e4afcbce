#!/usr/bin/env bash
# What a GPU gains, in some ten minutes on one card: batch sizes, memory, equality with the CPU, a generation of 256.
#   bash benchmarks/gpu.sh [FOLDER]        results there, gpu-results by default
# DEVICE=cpu TINY=1 runs the same in a tiny form without a GPU. PYTHON names the interpreter.
set -euo pipefail
cd "$(dirname "$0")/.."
out=$(realpath -m "${1:-gpu-results}") device=${DEVICE:-cuda} python=${PYTHON:-.venv/bin/python}
python=$(realpath -s "$python")
mkdir -p "$out"
weights=$out/weights
models=chgnet,sevennet,mace=$weights/mace-small.model,mattersim=$weights/mattersim-1m.pth
sizes=(--atoms 8,24,64 --batches 1,4,16,64,256,1024) candidates=256
if [ -n "${TINY:-}" ]; then
    models=chgnet sizes=(--atoms 4 --batches 1,2 --rounds 1) candidates=2
elif [ ! -d "$weights" ]; then
    "$python" benchmarks/random_weights.py "$weights" >"$out/weights.log" 2>&1
fi
nvidia-smi --query-gpu=name,memory.total,driver_version --format=csv,noheader >"$out/device.txt" 2>/dev/null || echo "no GPU" >"$out/device.txt"
"$python" benchmarks/batch_sizes.py --models "$models" --device "$device" "${sizes[@]}" --json "$out/batch_sizes.json" |
    tee "$out/batch_sizes.md"
"$python" benchmarks/generation.py --work "$out/generation" --only service --only "ASE loop" --device "$device" \
    --candidates "$candidates" --few "$((candidates < 16 ? candidates : 16))" --json "$out/generation.json" | tee "$out/generation.md"
