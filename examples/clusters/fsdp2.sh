#!/usr/bin/env bash
# A model split over two processes (FSDP2), on a CPU: a tiny one with random weights trains for two steps, stops, and goes on
# with the third; transformers loads what is saved. PYTHON=... names an environment with selfdistill.
set -euo pipefail
cd "$(dirname "$0")/../.."
PYTHON=${PYTHON:-.venv/bin/python}
OUT=${OUT:-runs/clusters-fsdp2}
mkdir -p "$OUT"

"$PYTHON" examples/clusters/tiny_model.py "$OUT/model"

train() {
  OMP_NUM_THREADS=1 "$PYTHON" -m torch.distributed.run --nproc_per_node 2 -m selfdistill train --shard_weights \
    --model_name "$OUT/model" --limit 8 --template prior_turn --save_steps 2 --per_device_train_batch_size 2 \
    --gradient_accumulation_steps 1 --max_completion_length 16 --dtype float32 --output_dir "$OUT/run" "$@"
}

train --max_steps 2 --lr_scheduler_type constant --overwrite
train --max_steps 3 --lr_scheduler_type constant --allow_changes

"$PYTHON" - "$OUT/run" <<'END_OF_CHECK'
import sys

from transformers import AutoModelForCausalLM

model = AutoModelForCausalLM.from_pretrained(sys.argv[1])
print(f"{type(model).__name__} with {model.num_parameters():,} weights in {model.dtype}")
END_OF_CHECK
