#!/usr/bin/env bash
# Real chest X-rays from end to end: bash runs/openi.sh DATA. DATA is Open-i's folder (ecgen-radiology/ or
# NLMCXR_reports.tgz, and the unpacked PNGs) or a folder of your own (docs/data.md). A small UniX from nothing: reports
# cleaned, tokenizer, autoencoder, ViT, the paper's three stages, each by the best weights on the validation split, then
# the evaluation. docs/real.md says what comes out. Nothing is written into DATA, and what is finished is not done again.
#   QUICK=1 bash runs/openi.sh DATA                          a short run of everything, with the tiny preset
#   STEPS=20 BATCH=4 bash runs/openi.sh DATA                 only to see that it works
#   START=assets/tiny bash runs/openi.sh DATA                a short run from weights that know phantoms (docs/real.md)
#   DEVICE=cuda bash runs/openi.sh DATA
# SEED, DTYPE, OUT, PRESET; N: films drawn; SAMPLES: reports of a consensus.
set -euo pipefail
DATA=$(realpath "${1:?give the folder of the data set: bash runs/openi.sh DATA}")
[ -d "$DATA" ] || { echo "error: $DATA: is not a folder; give the folder that holds the reports and the films" >&2; exit 2; }
cd "$(dirname "$0")/.."
: "${OUT:=out/openi${START:+-transfer}${QUICK:+-quick}${STEPS:+-look}}" "${N:=${STEPS:+8}}" "${N:=376}"
: "${SAMPLES:=${STEPS:+2}}" "${SAMPLES:=32}" "${PRESET:=${QUICK:+tiny}}" "${PRESET:=small}"
films=$OUT/data cleaned=$OUT/data/cleaned.jsonl

read -r before 2>/dev/null <"$OUT/source.txt" || before=$DATA
[ "$before" = "$DATA" ] || { echo "error: OUT=$OUT: holds a run on $before; name another folder" >&2; exit 2; }

mkdir -p "$films" # the films where the cleaned table looks for them, as links
echo "$DATA" >"$OUT/source.txt"
for entry in "$DATA"/*; do
    case $entry in *.csv | *.csv.gz | *.jsonl | *.json) ;; *) ln -sfn "$entry" "$films/" ;; esac
done
[ -f "$cleaned" ] || python data.py clean "$DATA" --out "$cleaned" --hold-out 0.1
python data.py stats "$cleaned" --out "$OUT/films.png"

flags=(--data "$cleaned" --validate "$cleaned" --device "${DEVICE:-cpu}" --dtype "${DTYPE:-fast}")
flags+=(--seed "${SEED:-0}" --ema 0 --resume) # go on where it was stopped
flags+=(${BATCH:+--batch "$BATCH"})
# The tiny recipe's Muon was not tried on films: what docs/real.md says was measured so.
[ -z "${START:-}${QUICK:-}" ] || flags+=(--optimizer adamw --lr 1e-3)

train=(python)
if [ "${DEVICE:-cpu}" = cpu ] && [ -n "${QUICK:-}${START:-}" ] && [ -z "${STEPS:-}" ]; then # as in runs/tiny.sh
    threads=${OMP_NUM_THREADS:-$(python -c 'import os; print(max(1, os.cpu_count() // 2))')}
    train=(env OMP_WAIT_POLICY=PASSIVE OMP_NUM_THREADS="$threads" torchrun --standalone --nproc_per_node=2)
fi

stage() { # its folder (the stage, or the stage-WORD), what it starts from, steps of QUICK and of START, more flags
    local more=()
    if [ -n "${STEPS:-}" ]; then
        more=(--steps "$STEPS")
    elif [ -n "${QUICK:-}${START:-}" ]; then
        more=(--steps "$3" --look-every $(($3 / 8)))
    fi
    "${train[@]}" train.py --stage "${1%%-*}" --init "$2" --out "$OUT/stage-$1" "${flags[@]}" ${more[@]+"${more[@]}"} "${@:4}"
}
best() { echo "$OUT/stage-$1/checkpoint.best"; }
# Reading: rare findings come up to ten times as often, and names before reports, or one text is all that is learnt.
read=(--augment --balance 10 --decay 0.4 --mix 0:1)
first=(--observations first --batch "${BATCH:-16}" --lr 5e-4 --micro-batch 8)
if [ -n "${START:-}" ]; then # the decoder alone learns films: the latents stay those that START's gen branch knows
    stage vit "$START" 4000 --augment --balance 4 --decay 0.4
    stage 1-names "$(best vit)" 500 "${read[@]}" --observations only --micro-batch 16
    stage 1 "$(best 1-names)" 900 "${read[@]}" "${first[@]}"
    stage 2 "$(best 1)" 1000 --balance 10
    stage vae "$OUT/stage-2" 800 --train decoder --decay 0.5
    stage 3 "$OUT/stage-vae" 400 --balance 10 --lr 8e-4 --ema 0.99 --decay 0.6 --time-shift 1
else
    stage vae "scratch:$PRESET" 2000 --batch "${BATCH:-8}" --decay 0.4
    stage vit "$(best vae)" 3000 --augment --balance 4 --decay 0.4
    stage 1-names "$(best vit)" 400 "${read[@]}" --observations only --micro-batch 16
    stage 1 "$(best 1-names)" 800 "${read[@]}" "${first[@]}"
    stage 2 "$(best 1)" 1000 --balance 10 --decay 0.3
    stage 3 "$(best 2)" 400 --balance 10 ${QUICK:+--lr 8e-4} --decay 0.5 --time-shift 1
fi

truth=$cleaned # the reports as they were written, where the set itself says which are for validation
if python data.py stats "$DATA" --split validate --out "$OUT/validation.png" >/dev/null 2>&1; then truth=$DATA; fi
judge=(--weights "$(best 3)" --split validate --device "${DEVICE:-cpu}" --dtype "${DTYPE:-fast}" --cache "$OUT/cache" --resume)
report=(--data "$truth" --train "$cleaned" --literature-bleu)
python evaluate.py report "${report[@]}" "${judge[@]}" --out "$OUT/report" # greedily
python evaluate.py report "${report[@]}" "${judge[@]}" --out "$OUT/report-consensus" \
    --consensus "$SAMPLES" --batch $((8 * SAMPLES)) # eight films at a time
python evaluate.py image --real "$cleaned" --train "$cleaned" --n "$N" --vit "$(best 1)" "${judge[@]}" --out "$OUT/image"

# What the autoencoder keeps of a film.
python -m studies.autoencoder --weights "$(best 3)" --data "$cleaned" --split validate --n "$N" --out "$OUT/rebuilt.png"
