"""What the README shows is what happens."""

import re
import subprocess
import sys
from pathlib import Path

from model import preset
from speed.cost import memory_per_gpu

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


def test_the_python_example_runs(monkeypatch):
    monkeypatch.chdir(ROOT)
    example = re.search(r"```python\n(.*?)```", README, re.S).group(1)
    names = {}
    exec(example, names)
    assert names["velocity"].shape == (1, 16, 16, 16)
    assert names["logits"].shape[:2] == (1, 1)
    assert names["rebuilt"].shape == names["images"].shape


def test_parameter_counts_are_those_of_model_py():
    printed = subprocess.run([sys.executable, ROOT / "model.py"], capture_output=True, text=True).stdout
    assert printed.strip() in README


def test_memory_table_is_what_cost_py_computes():
    for stage, size, micro in (("1", 384, 8), ("2", 256, 32), ("3", 512, 8)):
        flags = [(False, False), (True, False), (False, True), (True, True)]
        totals = [memory_per_gpu(preset("unix"), stage, micro, size, 8, *each)["total"] for each in flags]
        row = f"| {stage}, {size} px | {micro} | " + " | ".join(f"{total:.1f}" for total in totals) + " |"
        assert row in README


def test_every_file_it_names_exists():
    for name in set(re.findall(r"`([\w./-]+\.(?:py|sh|md|png))`", README)) - {"sample.png", "loss.png"}:
        assert (ROOT / name).exists(), name
    for target in re.findall(r"\]\(((?!http)[^)]+)\)", README):
        assert (ROOT / target).exists(), target


def test_shipped_weights_are_at_most_32_mb_and_know_their_history():
    from weights import load_checkpoint

    files = list((ROOT / "assets" / "tiny").iterdir())
    assert sum(file.stat().st_size for file in files) <= 32e6
    stages = [entry["stage"] for entry in load_checkpoint(ROOT / "assets" / "tiny").history]
    assert list(dict.fromkeys(stages)) == ["vae", "vit", "1", "2", "3"]  # each perhaps more than once
