#!/usr/bin/env bash
# Do phantoms teach anything about real films? bash runs/transfer.sh DATA: the same steps, the same films in the same
# order, once from the shipped weights, which know phantoms only, and once from the same model before it learnt anything.
# The ViT learns first (stage vit), then the und branch (stage 1). docs/real.md has the table.
# STEPS (of vit), READ (of stage 1), SEED, DTYPE, OUT.
set -euo pipefail
DATA=$(realpath "${1:?give a data set with a validation split: bash runs/transfer.sh DATA}")
cd "$(dirname "$0")/.."
: "${STEPS:=400}" "${READ:=300}" "${OUT:=out/transfer}"

python - "$OUT/untrained" <<'END'
import sys
from pathlib import Path

import torch

from checkpoints.presets import init_weights
from model import UniX
from weights import load_checkpoint, save_checkpoint

checkpoint = load_checkpoint("assets/tiny")
checkpoint.model, checkpoint.history = UniX(checkpoint.model.config), []
init_weights(checkpoint.model, torch.Generator().manual_seed(0))
save_checkpoint(Path(sys.argv[1]), checkpoint)
END
flags=(--data "$DATA" --validate "$DATA" --dtype "${DTYPE:-fast}" --seed "${SEED:-0}" --resume)
flags+=(--augment --decay 0.4 --ema 0 --optimizer adamw --lr 1e-3)
for start in shipped untrained; do
    init=assets/tiny
    [ $start = shipped ] || init=$OUT/untrained
    python train.py --stage vit --init "$init" --out "$OUT/$start-vit" --steps "$STEPS" --look-every $((STEPS / 4 + 1)) "${flags[@]}"
    python train.py --stage 1 --init "$OUT/$start-vit" --out "$OUT/$start-read" --mix 0:1 --steps "$READ" --look-every $((READ / 3 + 1)) "${flags[@]}"
    python evaluate.py report --weights "$OUT/$start-read" --data "$DATA" --split validate --literature-bleu \
        --dtype "${DTYPE:-fast}" --cache "$OUT/cache" --resume --out "$OUT/$start-report"
done
