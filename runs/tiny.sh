#!/usr/bin/env bash
# Remakes the shipped weights (assets/tiny): the autoencoder and the ViT from nothing, then the paper's three stages, on
# phantoms only, by the tiny recipe of train.py. Its time on the machine that made them is in docs/training.md. Each finished stage stays under out/.
# DEVICE=cuda is the knob worth turning; DTYPE is bfloat16 where the machine multiplies it fast. A look at all of it in a
# few minutes, leaving the shipped weights alone: STEPS=20 bash runs/tiny.sh
set -euo pipefail
cd "$(dirname "$0")/.."
: "${OUT:=out${STEPS:+/look}}"
: "${TO:=${STEPS:+$OUT/tiny}}" "${TO:=assets/tiny}"
flags=(--device "${DEVICE:-cpu}" --dtype "${DTYPE:-fast}" --resume) # go on where it was stopped
flags+=(${STEPS:+--steps "$STEPS"})

stage() { # name, what it starts from, more flags
    python train.py --stage "$1" --init "$2" --out "$OUT/stage-$1" "${flags[@]}" "${@:3}"
}
stage vae scratch
stage vit "$OUT/stage-vae"
stage 1 "$OUT/stage-vit"
stage 2 "$OUT/stage-1" --compile
stage 3 "$OUT/stage-2" --compile
python weights.py convert "$OUT/stage-3" "$TO" --dtype bfloat16
