#!/usr/bin/env bash
# The paper's three stages at full size, on one machine with eight GPUs (Table 1; section 3.4). Start it again after any
# interruption: every stage goes on from its last checkpoint, on any number of GPUs.
#
#   JANUS=weights/Janus-Pro-1B KL_F16=weights/vae/kl-f16d16.ckpt RADDINO=weights/raddino bash runs/paper.sh
#
# More machines: run the same on each with LAUNCH="torchrun --nnodes=2 --nproc_per_node=8 --rdzv_backend=c10d
# --rdzv_endpoint=HOST:29500" and a common OUT.
# DATA: what train.py --data takes.
set -euo pipefail
cd "$(dirname "$0")/.."
: "${JANUS:=weights/Janus-Pro-1B}" "${KL_F16:=weights/vae/kl-f16d16.ckpt}" "${RADDINO:=weights/raddino}"
: "${DATA:=phantom}" "${OUT:=out/paper}" "${GPUS:=8}"
: "${LAUNCH:=torchrun --standalone --nproc_per_node=$GPUS}"
[ -e "$RADDINO" ] || { echo "error: RADDINO=$RADDINO: not there, and stage 2 needs it: python weights.py download raddino" >&2; exit 2; }
flags=(--data "$DATA" --resume --compile)

[ -d "$OUT/start" ] || python weights.py convert "$JANUS" "$OUT/start" --vae "$KL_F16" --dtype float32
$LAUNCH train.py --stage 1 --init "$OUT/start" --out "$OUT/stage-1" "${flags[@]}" --less-memory both
$LAUNCH train.py --stage 2 --init "$OUT/stage-1" --out "$OUT/stage-2" "${flags[@]}" --repa "$RADDINO"
$LAUNCH train.py --stage 3 --init "$OUT/stage-2" --out "$OUT/stage-3" "${flags[@]}"
python weights.py convert "$OUT/stage-3" "$OUT/unix"
