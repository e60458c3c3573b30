#!/usr/bin/env bash
# Remakes the shipped weights (assets/tiny): the autoencoder, then the paper's three stages, on drawn X-rays only.
# Its time on the machine that made them is in the README. Each finished stage is kept under out/; DEVICE=cuda and
# DTYPE=bfloat16 are the knobs worth turning.
set -euo pipefail
cd "$(dirname "$0")/.."
flags=(--device "${DEVICE:-cpu}" --dtype "${DTYPE:-bfloat16}" --seed 0 --decay 0.3)

python train.py --stage vae --init scratch "${flags[@]}"
python train.py --stage vit "${flags[@]}"
python train.py --stage 1 "${flags[@]}" --compile
python train.py --stage 2 "${flags[@]}" --compile
python train.py --stage 3 "${flags[@]}" --compile
python weights.py convert out/stage-3 assets/tiny --dtype bfloat16
