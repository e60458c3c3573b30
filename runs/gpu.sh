#!/usr/bin/env bash
# What one GPU does with this code at full size: a step of each stage eager and compiled, reading
# and drawing. It prints a page: bash runs/gpu.sh | tee docs/gpu-CARDNAME.md. Without a GPU it runs the tiny model on the
# CPU, to see that it works.
set -euo pipefail
cd "$(dirname "$0")/.."
python -m speed.gpu "$@"
