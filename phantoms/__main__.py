"""Draw chest X-rays with their reports into a folder that `train.py --data` reads.

python -m phantoms --n 64 --out out/phantoms
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import asdict
from pathlib import Path

from PIL import Image
from tqdm import tqdm

from common.errors import UserError, run
from common.files import write_atomically
from common.ownership import own_folder
from common.pictures import grid, save_png
from phantoms.dataset import phantom


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description="Draw chest radiographs with known truth: PNGs, phantoms.jsonl and a captioned contact sheet.",
        epilog="example: python -m phantoms --n 64 --out out/phantoms   # the same 64 pictures on every machine",
    )
    parser.add_argument("--n", type=int, required=True, help="how many pictures (at least 1)")
    parser.add_argument("--out", type=Path, required=True, help="folder to write to; made if it is not there")
    parser.add_argument("--seed", type=int, default=0, help="which data set; 0 or more (default 0)")
    parser.add_argument("--start", type=int, default=0, help="index of the first picture; 0 or more (default 0)")
    parser.add_argument("--size", type=int, default=256, help="pixels a side, a multiple of 16 (default 256)")
    args = parser.parse_args(argv)

    if args.n < 1:
        raise UserError(f"--n {args.n}: nothing to draw; give 1 or more")
    if args.size < 16 or args.size % 16:
        raise UserError(f"--size {args.size}: not a positive multiple of 16; try {max(16, round(args.size / 16) * 16)}")
    if args.seed < 0 or args.start < 0:
        flag, value = ("--seed", args.seed) if args.seed < 0 else ("--start", args.start)
        raise UserError(f"{flag} {value}: must not be negative; give 0 or more")
    own_folder(args.out)
    spent, samples = 0.0, []
    with write_atomically(args.out / "phantoms.jsonl") as temporary, open(temporary, "w", encoding="utf-8") as lines:
        for index in tqdm(range(args.start, args.start + args.n), unit="image"):
            began = time.perf_counter()
            sample = phantom(args.seed, index, args.size)
            spent += time.perf_counter() - began
            name = f"{args.seed:03d}_{index:06d}.png"
            save_png(Image.fromarray(sample.image), args.out / name)
            record = {"image": name, "view": sample.view, "report": sample.report, "impression": sample.impression}
            record |= {"findings": [asdict(f) for f in sample.findings], "labels": sample.labels()}
            lines.write(json.dumps(record) + "\n")
            if len(samples) < 64:  # a larger sheet is no longer looked at
                samples.append(sample)
    sheet = grid([sample.image for sample in samples], [sample.impression for sample in samples])
    save_png(sheet, args.out / "contact_sheet.png")
    print(f"{args.n} images of {args.size} px in {args.out}, drawn at {args.n / spent:.0f} images/s")


if __name__ == "__main__":
    run(main)
