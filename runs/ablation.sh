#!/usr/bin/env bash
# The paper's ablation (Table 5) at tiny scale: from the stage-1 weights, five ways to spend 500 steps of 16 drawing
# examples each. "gen" trains the generation branch alone; "both" everything, with UND:GEN reading examples beside them.
# START: where runs/tiny.sh left stage 1. OUT: each run and its evaluation; the table's numbers are in results.json.
set -euo pipefail
cd "$(dirname "$0")/.."
: "${START:=out/stage-1}" "${OUT:=out/ablation}" "${CACHE:=out/cache}"
flags=(--stage 2 --init "$START" --steps 500 --decay 0.4 --data phantom:4000 --cache "$CACHE" --dtype fast --compile --resume)

run() { # name, examples a step, and what trains
    python train.py "${flags[@]}" --out "$OUT/$1" --batch "$2" --micro-batch 64 "${@:3}"
    python evaluate.py phantom --weights "$OUT/$1" --out "$OUT/$1/evaluate" --n 200 --size 128 --dtype fast --resume
}
run gen 16 --train gen
run both-1-1 32 --train both --mix 1:1
run both-1-2 24 --train both --mix 1:2
run both-1-4 20 --train both --mix 1:4
run both-0-1 16 --train both --mix 0:1
