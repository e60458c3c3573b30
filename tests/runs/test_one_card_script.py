"""runs/one_card.sh, on made-up films: an adapter is trained, and reading and drawing are scored without and with it."""

import csv
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from phantoms.dataset import Phantoms
from weights import save_checkpoint

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
@pytest.mark.parametrize(("stage", "measure"), [("1", "table_2"), ("3", "table_3")])
def test_the_script_scores_weights_before_and_after_their_adapter(stage, measure, micro, tmp_path):
    source, data = Phantoms(12, 64), tmp_path / "films"
    data.mkdir()
    rows = [(f"{i}.png", source.text(i)[1], "test" if i < 6 else "train") for i in range(12)]
    with open(data / "metadata.csv", "w", newline="") as file:
        csv.writer(file).writerows([("image", "impression", "split"), *rows])
    for i in range(12):
        Image.fromarray(source.image(i)).save(data / f"{i}.png")
    weights = tmp_path / "drawn"
    save_checkpoint(weights, replace(micro, history=[{"stage": "2", "steps": 1, "seconds": 1}]))
    settings = {"DATA": data, "WEIGHTS": weights, "OUT": tmp_path / "out", "STAGE": stage, "STEPS": 2, "RANK": 2}
    settings["MORE"] = "--size 64 --batch 4" if stage == "3" else "--batch 4"
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "OMP_NUM_THREADS": "1", **{k: str(v) for k, v in settings.items()}}
    script = ["bash", ROOT / "runs/one_card.sh"]
    for _ in range(2):  # the second time nothing is left to do
        ran = subprocess.run(script, env=environment, capture_output=True, text=True, timeout=600)
        assert ran.returncode == 0, ran.stderr[-3000:]
    before, after = (json.loads((tmp_path / "out" / name / "results.json").read_text()) for name in ("before", "after"))
    assert before["weights"] != after["weights"] and measure in before.keys() & after.keys()
    assert (tmp_path / "out/adapter/checkpoint/adapter.safetensors").stat().st_size < 100_000
