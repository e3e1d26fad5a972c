#!/usr/bin/env bash
# An adapter trained with the completions of a vLLM server, on a CPU: the server of the embedded model starts, `train` sends
# it the adapter before each of two steps, and the server ends. Needs the environment of `make test-vllm`, or
# PYTHON=... of another one with vLLM.
set -euo pipefail
cd "$(dirname "$0")/../.."
PYTHON=${PYTHON:-.venv-vllm/bin/python}
OUT=${OUT:-runs/clusters-vllm}
PORT=${PORT:-8000}
mkdir -p "$OUT"

"$PYTHON" - "$OUT/model" <<'END'
import sys

from selfdistill.models.loading import load_model, load_tokenizer

load_model("smollm2-135m", dtype="float32", device="cpu").save_pretrained(sys.argv[1])
load_tokenizer("smollm2-135m").save_pretrained(sys.argv[1])
END

VLLM_NO_USAGE_STATS=1 VLLM_ALLOW_RUNTIME_LORA_UPDATING=1 "$PYTHON" -m vllm.entrypoints.openai.api_server \
  --model "$OUT/model" --host 127.0.0.1 --port "$PORT" --dtype float32 --enforce-eager --max-model-len 1024 \
  --kv-cache-memory-bytes $((1 << 30)) --enable-lora --max-lora-rank 8 --generation-config vllm \
  --logprobs-mode processed_logprobs --distributed-executor-backend uni > "$OUT/server.log" 2>&1 &
server=$!
trap 'kill $server' EXIT

for _ in $(seq 240); do
  curl --silent --fail --output /dev/null "http://127.0.0.1:$PORT/health" && break
  kill -0 $server || { tail "$OUT/server.log"; exit 1; }
  sleep 1
done

"$PYTHON" -m selfdistill train --model_name "$OUT/model" --lora_r 8 --limit 8 --template prior_turn --max_steps 2 \
  --per_device_train_batch_size 2 --gradient_accumulation_steps 2 --max_completion_length 32 --dtype float32 \
  --rollout_engine vllm-server --vllm_url "http://127.0.0.1:$PORT" --output_dir "$OUT/run" --overwrite
grep --only-matching '"importance_weight": [0-9.]*' "$OUT/run/metrics.jsonl"
