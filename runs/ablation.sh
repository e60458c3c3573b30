#!/usr/bin/env bash
# Two of the paper's questions at tiny scale, from the shipped weights' und branch and a gen branch that never drew.
# Table 5: five ways to spend STEPS steps of 16 drawing examples each. "gen" trains the generation branch alone; "both"
# everything, with UND:GEN reading examples beside them. REPA: with and without, from two seeds, a quarter of STEPS at a
# time; the prompt gain against the steps is in metrics.jsonl, the judges' numbers in evaluate-*/results.json.
#   bash runs/ablation.sh                  both
#   WHAT=repa bash runs/ablation.sh        one of them: table-5 or repa
# START: a stage-1 folder of your own. STEPS, N (pictures that are judged), DTYPE, OUT.
set -euo pipefail
cd "$(dirname "$0")/.."
: "${WHAT:=table-5 repa}" "${STEPS:=500}" "${N:=200}" "${DTYPE:=fast}" "${OUT:=out/ablation}" "${START:=$OUT/stage-1}"
[[ $WHAT = table-5 || $WHAT = repa || $WHAT = "table-5 repa" ]] || { echo "error: WHAT=$WHAT: give table-5 or repa" >&2; exit 2; }
flags=(--optimizer adamw --lr 1e-3 --stage 2 --init "$START" --ema 0 --cache "$OUT/cache" --dtype "$DTYPE" --resume) # the last weights, no average
judge=(--n "$N" --size 128 --dtype "$DTYPE" --resume)

[ -d "$START" ] || python - "$START" <<'END'
import sys
from pathlib import Path

import torch

from checkpoints.presets import init_weights
from model import UniX
from weights import load_checkpoint, save_checkpoint

checkpoint = load_checkpoint("assets/tiny")
learnt = dict(checkpoint.model.und_parameters())  # bit for bit what stage 1 left
checkpoint.model = UniX(checkpoint.model.config)
init_weights(checkpoint.model, torch.Generator().manual_seed(0))
with torch.no_grad():
    for name, parameter in checkpoint.model.und_parameters():
        parameter.copy_(learnt[name])
checkpoint.history = [entry for entry in checkpoint.history if entry["stage"] not in ("2", "3")]
save_checkpoint(Path(sys.argv[1]), checkpoint)
END

table_5() { # name, examples a step, and what trains
    python train.py "${flags[@]}" --steps "$STEPS" --decay 0.4 --data phantom:4000:even --out "$OUT/$1" \
        --batch "$2" --micro-batch 64 "${@:3}"
    python evaluate.py phantom --weights "$OUT/$1" --out "$OUT/$1/evaluate" "${judge[@]}"
}
if [[ $WHAT = *table-5* ]]; then
    table_5 gen 16 --train gen
    table_5 both-1-1 32 --train both --mix 1:1
    table_5 both-1-2 24 --train both --mix 1:2
    table_5 both-1-4 20 --train both --mix 1:4
    table_5 both-0-1 16 --train both --mix 0:1
fi
if [[ $WHAT = *repa* ]]; then
    for seed in 0 1; do
        for weight in 0.5 0; do
            run=$OUT/repa-$weight-seed-$seed
            for quarter in 1 2 3 4; do # without --decay a run may go on
                python train.py "${flags[@]}" --steps $((STEPS * quarter / 4)) --data phantom:4000:even --out "$run" \
                    --batch 32 --repa-weight "$weight" --seed "$seed" --look-every 50
                python evaluate.py phantom --weights "$run" --out "$run/evaluate-$quarter" "${judge[@]}"
            done
        done
    done
fi
