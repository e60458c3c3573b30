#!/usr/bin/env bash
# Remakes the shipped weights (assets/tiny): the autoencoder and the ViT from nothing, then the paper's three stages, on
# drawn X-rays only. Its time on the machine that made them is in the README. Each finished stage stays under out/.
# DEVICE=cuda and DTYPE=float32 are the knobs worth turning.
set -euo pipefail
cd "$(dirname "$0")/.."
flags=(--device "${DEVICE:-cpu}" --dtype "${DTYPE:-bfloat16}" --seed 0 --resume) # go on where it was stopped

python train.py --stage vae --init scratch "${flags[@]}" --decay 0.4
python train.py --stage vit "${flags[@]}" --decay 0.3
python train.py --stage 1 "${flags[@]}" --decay 0.4 --compile
python train.py --stage 2 "${flags[@]}" --data phantom:8000 --compile
python train.py --stage 3 "${flags[@]}" --data phantom:8000 --decay 0.5 --compile
python weights.py convert out/stage-3 assets/tiny --dtype bfloat16
