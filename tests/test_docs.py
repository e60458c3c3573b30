"""What README.md and docs/ show is what happens."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from checkpoints.presets import preset
from speed.cost import memory_per_gpu
from weights import load_checkpoint

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "workshop" / "README.md"]
PAGES += sorted((ROOT / "docs").glob("*.md"))
WRITTEN = {
    "annotation.json",  # made by commands, not ours
    "sample.png",
    "loss.png",
    "results.json",
    "report.html",
    "metrics.jsonl",
    "config.json",
    "manifest.json",
    "docs/gpu-CARDNAME.md",
}


def test_the_python_example_runs(monkeypatch):
    monkeypatch.chdir(ROOT)
    example = re.search(r"```python\n(.*?)```", README, re.S).group(1)
    names = {}
    exec(example, names)
    assert names["velocity"].shape == (1, 16, 16, 16)
    assert len(names["answers"]) == 1 and len(names["answers"][0]) <= 1
    assert names["rebuilt"].shape == names["images"].shape


def test_parameter_counts_are_those_of_the_presets():
    command = [sys.executable, "-m", "checkpoints.presets"]
    printed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert printed.strip() in (ROOT / "docs" / "checkpoints.md").read_text()


def test_memory_table_is_what_cost_py_computes():
    page = (ROOT / "docs" / "training.md").read_text()
    for stage, size, micro in (("1", 384, 8), ("2", 256, 32), ("3", 512, 8)):
        flags = [(False, False), (True, False), (False, True), (True, True)]
        totals = [memory_per_gpu(preset("unix"), stage, micro, size, *each)["total"] for each in flags]
        row = f"| {stage}, {size} px | {micro} | " + " | ".join(f"{total:.1f}" for total in totals) + " |"
        assert row in page
    for stage, size, micro in (("1", 384, 8), ("3", 512, 4)):  # with an adapter alone
        totals = [
            memory_per_gpu(preset("unix"), stage, micro, size, False, less, 16)["total"] for less in (False, True)
        ]
        row = f"| {stage}, {size} px | {micro} | " + " | ".join(f"{total:.1f}" for total in totals) + " |"
        assert row in page


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_file_and_link_it_names_exists(page):
    text = page.read_text()
    for name in set(re.findall(r"`([\w./-]+(?:\.(?:py|sh|md|png|svg|json|html)|/))`", text)) - WRITTEN:
        made = name.startswith(("out/", "checkpoint/", "samples/", "ecgen-radiology/", "vae/"))  # of a run, of others
        assert made or (ROOT / name).exists(), name
    for target in re.findall(r"\]\(((?!http)[^)#]+)", text):
        assert (page.parent / target).exists(), target


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_command_it_names_exists(page):
    """`python X.py`, `torchrun ... X.py`, `python -m package.module`, `bash X.sh` and `pytest X`."""
    text = page.read_text()
    scripts = re.findall(r"(?:python|torchrun(?: --\S+)*) ([\w/]+\.py)", text) + re.findall(r"\bbash ([\w./]+)", text)
    scripts += [name for line in re.findall(r"pytest((?: tests/[\w/]+\.py)+)", text) for name in line.split()]
    for name in scripts:
        assert (ROOT / name).is_file(), name
    for module in re.findall(r"python -m ([\w.]+)", text):
        path = ROOT / module.replace(".", "/")
        assert path.with_suffix(".py").is_file() or (path / "__main__.py").is_file(), module


def test_the_readme_is_a_page_to_read_at_one_sitting():
    assert 900 <= len(README.split()) <= 1300


def test_shipped_weights_are_at_most_32_mb_and_know_their_history():
    files = list((ROOT / "assets" / "tiny").iterdir())
    assert sum(file.stat().st_size for file in files) <= 32e6
    stages = [entry["stage"] for entry in load_checkpoint(ROOT / "assets" / "tiny").history]
    assert stages == ["vae", "vit", "1", "2", "3"]
