"""Render chest X-rays with their reports into a folder that `train.py --data` reads.

python -m phantoms --n 64 --out out/phantoms
"""

import json
from dataclasses import asdict

from PIL import Image
from tqdm import tqdm

from common import arguments
from common.errors import run
from common.files import write_atomically
from common.ownership import own_folder
from common.pictures import save_png
from phantoms.dataset import phantom


def main(argv: list[str] | None = None) -> None:
    parser = arguments.Parser(
        description="Render chest radiographs with known truth: PNGs and phantoms.jsonl.",
        epilog="example: python -m phantoms --n 64 --out out/phantoms   # the same 64 pictures on every machine",
    )
    add = parser.add_argument
    add("--n", type=arguments.whole(1, arguments.MOST_EXAMPLES), required=True, help="how many pictures")
    add("--out", type=arguments.output_folder, default="out/phantoms", help="folder to write (default out/phantoms)")
    add("--seed", type=arguments.seed, default=0, help="which data set; 0 or more (default 0)")
    add("--size", type=arguments.size, default=256, help="pixels a side, a multiple of 16 (default 256)")
    args = parser.parse_args(argv)
    own_folder(args.out)
    with write_atomically(args.out / "phantoms.jsonl") as temporary, open(temporary, "w", encoding="utf-8") as lines:
        for index in tqdm(range(args.n), unit="image"):
            sample = phantom(args.seed, index, args.size)
            name = f"{args.seed:03d}_{index:06d}.png"
            save_png(Image.fromarray(sample.image), args.out / name)
            record = {"image": name, "view": sample.view, "report": sample.report, "impression": sample.impression}
            record |= {"truth": [asdict(f) for f in sample.findings], "labels": sample.labels()}
            lines.write(json.dumps(record) + "\n")
    print(f"{args.n} images of {args.size} px in {args.out}")


if __name__ == "__main__":
    run(main)
