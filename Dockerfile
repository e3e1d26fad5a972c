# The package on a machine with NVIDIA's GPUs, with the versions that the tests run with:
#   docker build -t selfdistill .
#   docker run --gpus all --ipc host -v "$PWD/runs:/home/worker/runs" selfdistill selfdistill train --output_dir runs/first
# torch brings the CUDA libraries; the host needs the driver and NVIDIA's container toolkit. --build-arg EXTRAS=eval,gpu,ray names
# other extras. gcc is for Triton, which compiles its kernels where they run.
FROM python:3.11-slim-bookworm
ARG EXTRAS=gpu,ray
RUN apt-get update && apt-get install --yes --no-install-recommends gcc libc6-dev && rm -rf /var/lib/apt/lists/*
RUN useradd --create-home worker
WORKDIR /build
COPY constraints.txt ./
RUN pip install --no-cache-dir -c constraints.txt torch
COPY pyproject.toml README.md LICENSE ./
COPY recipes recipes
COPY src src
RUN pip install --no-cache-dir -c constraints.txt ".[$EXTRAS]" && rm -rf /build/*
USER worker
WORKDIR /home/worker
CMD ["selfdistill", "--help"]
