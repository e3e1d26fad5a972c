#!/usr/bin/env bash
# A study on a Ray cluster, on a CPU: a cluster of two workers starts on this machine, `compare` has its runs made there with a
# tiny model with random weights, and the cluster ends. PYTHON=... names an environment with selfdistill and ray.
set -euo pipefail
cd "$(dirname "$0")/../.."
PYTHON=${PYTHON:-.venv/bin/python}
OUT=${OUT:-runs/clusters-ray}
PORT=${PORT:-6379}
mkdir -p "$OUT"

"$PYTHON" examples/clusters/tiny_model.py "$OUT/model"

export OMP_NUM_THREADS=1 RAY_USAGE_STATS_ENABLED=0 RAY_AUTH_MODE=token
RAY_AUTH_TOKEN=$("$PYTHON" -c 'import secrets; print(secrets.token_hex(32))')  # nobody else gives the cluster work
export RAY_AUTH_TOKEN
"$PYTHON" -m ray.scripts.scripts start --head --block --port "$PORT" --num-cpus 2 --object-store-memory 100000000 \
  --include-dashboard false > "$OUT/cluster.log" 2>&1 &
cluster=$!
trap 'kill $cluster; wait $cluster || true' EXIT

for _ in $(seq 60); do
  grep --quiet "Ray runtime started" "$OUT/cluster.log" && break
  kill -0 $cluster || { tail "$OUT/cluster.log"; exit 1; }
  sleep 1
done

"$PYTHON" -m selfdistill compare --executor ray --ray_address "127.0.0.1:$PORT" --model_name "$OUT/model" \
  --methods sft,sdft --seeds 0 --template prior_turn --limit 16 --eval_limit 4 --max_new_tokens 4 --prior none \
  --drift_prompts 2 --max_steps 1 --checkpoints 1 --max_completion_length 200 --per_device_train_batch_size 2 \
  --gradient_accumulation_steps 1 --dtype float32 --output_dir "$OUT/study" --overwrite
