#!/usr/bin/env bash
# Fine-tunes weights on films of your own with one card: an adapter trains (lora.py), the weights stand still. What the
# adapter is worth stands in OUT/before and OUT/after. Start it again after any interruption: it goes on.
#   WEIGHTS=weights/UniX DATA=films bash runs/one_card.sh            reading: reports of the split "test"
#   STAGE=3 WEIGHTS=weights/UniX DATA=films bash runs/one_card.sh    drawing
# DATA: what train.py --data takes. python -m speed.cost says what fits into a card; MICRO is how many films at a time,
# MORE further flags of train.py.
set -euo pipefail
cd "$(dirname "$0")/.."
: "${WEIGHTS:=weights/UniX}" "${DATA:?what to learn from: docs/data.md}" "${STAGE:=1}" "${OUT:=out/one_card}"
: "${RANK:=16}" "${STEPS:=1000}" "${MICRO:=4}" "${N:=200}"

score() { # folder, more flags
    local what=(report --data "$DATA")
    [ "$STAGE" = 1 ] || what=(image --real "$DATA")
    python evaluate.py "${what[@]}" --weights "$WEIGHTS" --n "$N" --batch "$MICRO" --dtype "${DTYPE:-fast}" --out "$OUT/$1" \
        --resume "${@:2}"
}
score before
python train.py --stage "$STAGE" --init "$WEIGHTS" --data "$DATA" --lora "$RANK" --steps "$STEPS" --micro-batch "$MICRO" \
    --less-memory activations --out "$OUT/adapter" --resume ${MORE:-}
score after --adapter "$OUT/adapter"
echo "$OUT/before and $OUT/after: report.html; the adapter: $OUT/adapter/checkpoint/adapter.safetensors"
