#!/usr/bin/env bash
# Replicas on a CPU: two processes, each with the whole of a tiny model with random weights, train together for three steps, as
# one process would with the same rows a step. PYTHON=... names an environment with selfdistill.
set -euo pipefail
cd "$(dirname "$0")/../.."
PYTHON=${PYTHON:-.venv/bin/python}
OUT=${OUT:-runs/clusters-replicas}
mkdir -p "$OUT"

"$PYTHON" examples/clusters/tiny_model.py "$OUT/model"

OMP_NUM_THREADS=1 "$PYTHON" -m torch.distributed.run --nproc_per_node 2 -m selfdistill train --model_name "$OUT/model" \
  --limit 8 --template prior_turn --max_steps 3 --per_device_train_batch_size 2 --gradient_accumulation_steps 1 \
  --max_completion_length 16 --dtype float32 --output_dir "$OUT/run" --overwrite
grep --only-matching '"tokens_seen": [0-9]*' "$OUT/run/metrics.jsonl"
