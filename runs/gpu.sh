#!/usr/bin/env bash
# What one GPU does with this code at full size, in at most ten minutes: goldens in float32 and bfloat16, a step of each
# stage eager and compiled, reading, drawing, saving and loading. Writes docs/gpu-CARDNAME.md. Without a GPU it runs the
# tiny model on the CPU, to see that it works.
set -euo pipefail
cd "$(dirname "$0")/.."
python -m speed.gpu "$@"
