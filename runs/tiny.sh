#!/usr/bin/env bash
# Trains the tiny model from nothing, in one pass: the autoencoder and the ViT, the paper's three stages, the adapter of
# sample.py --fast, on phantoms only, by the tiny recipe of train.py. It goes on where it was stopped, and ends with what
# each stage took.
#   bash runs/tiny.sh             makes the shipped weights again, into out/tiny; cp out/tiny/* assets/tiny ships them
#   HOURS=1 bash runs/tiny.sh     into out/hours-1/tiny: every stage shorter in proportion, by default 2.5
#   STEPS=20 bash runs/tiny.sh    into out/look/tiny: a look at all of it in a few minutes
# DEVICE=cuda is worth having; DTYPE is bfloat16 where the machine multiplies it fast. On a CPU two processes share the
# cores, since the tiny model's matrices are too small for many threads: docs/speedrun.md.
set -euo pipefail
cd "$(dirname "$0")/.."
: "${DEVICE:=cpu}" "${OUT:=out${STEPS:+/look}${HOURS:+/hours-$HOURS}}"
train=(python)
[ -z "${STEPS:-}" ] || [ -z "${HOURS:-}" ] || { echo "error: STEPS or HOURS: give one of them" >&2; exit 2; }
if [ "$DEVICE" = cpu ]; then
    : "${OMP_NUM_THREADS:=$(python -c 'import os; print(max(1, os.cpu_count() // 2))')}"
    export OMP_NUM_THREADS OMP_WAIT_POLICY=PASSIVE
    train=(torchrun --standalone --nproc_per_node=2)
fi
mkdir -p "$OUT"

stage() { # name, what it starts from, more flags
    # Two and a half hours are what the recipe's own steps take on two cores, without reflow (docs/speedrun.md).
    local steps=${STEPS:-} times="import train; print(round(train.RECIPES['tiny']['$1'].steps * ${HOURS:-2.5} / 2.5))"
    [ -z "${HOURS:-}" ] || steps=$(python -c "$times")
    local processes=("${train[@]}")
    case $1 in vae | vit | 1) processes=(python) ;; esac # two of them run side by side
    "${processes[@]}" train.py --stage "$1" --init "$2" --out "$OUT/stage-$1" --device "$DEVICE" --dtype "${DTYPE:-fast}" \
        --resume ${steps:+--steps "$steps"} "${@:3}"
}
# Reading needs no autoencoder: it trains beside the ViT and stage 1, and both meet before stage 2.
stage vae scratch > "$OUT/stage-vae.txt" 2>&1 &
vae=$!
trap 'pkill -P $vae; wait $vae || true' EXIT # what runs in the background saves and stops too
or_say() { "$@" || { tail -3 "$OUT/stage-vae.txt" >&2; exit 1; } }
stage vit scratch
kill -0 $vae 2> /dev/null || or_say wait $vae
stage 1 "$OUT/stage-vit"
or_say wait $vae
trap - EXIT
python - "$OUT" <<'END'
import sys
from weights import load_checkpoint, save_checkpoint

checkpoint, drawn = (load_checkpoint(f"{sys.argv[1]}/stage-{name}") for name in ("1", "vae"))
checkpoint.vae, checkpoint.history = drawn.vae, drawn.history + checkpoint.history
save_checkpoint(f"{sys.argv[1]}/read", checkpoint)
END
stage 2 "$OUT/read" # which --compile makes no shorter: docs/speedrun.md
stage 3 "$OUT/stage-2" --compile
python weights.py convert "$OUT/stage-3" "$OUT/tiny" --dtype bfloat16
stage reflow "$OUT/tiny" ${STEPS:+--data phantom:16} # beyond the paper: what sample.py --fast draws with
cp "$OUT/stage-reflow/checkpoint/adapter.safetensors" "$OUT/tiny/fast.safetensors"
python - "$OUT/stage-reflow/checkpoint/config.json" <<'END'
import json, sys

history = json.load(open(sys.argv[1]))["history"]
for entry in history:
    print(f"stage {entry['stage']:5}{entry['steps']:8,} steps{entry['seconds'] / 60:8.1f} min")
alone = sum(entry["seconds"] for entry in history if entry["stage"] != "vae") / 60
print(f"one after another, but for the autoencoder (beside) and the walks of reflow: {alone:.1f} min")
END
