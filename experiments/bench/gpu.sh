#!/bin/bash
# Purpose: what a GPU machine is to tell in under nine minutes: steps of CLIP, then the GPU tests.
# Command: experiments/bench/gpu.sh            (builds nothing, needs no network)
# Hardware: one NVIDIA GPU with 80 GB or more.
set -uo pipefail
cd "$(dirname "$0")/../.." || exit
nvidia-smi --query-gpu=name,driver_version --format=csv,noheader
git log -1 --format='commit %h' 2>/dev/null
status=0
python experiments/bench/gpu_step.py --seconds 330 "$@" || status=$?
timeout 150 python -m pytest -q -m gpu tests || status=$?
exit "$status"
