"""runs/openi.sh from nothing to the evaluation and runs/transfer.sh, on made-up films in Open-i's own layout."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from phantoms.dataset import Phantoms

ROOT = Path(__file__).parents[2]
XML = """<eCitation><uId id="CXR{uid}"/><MedlineCitation><Article><Abstract>
<AbstractText Label="FINDINGS">{findings}</AbstractText><AbstractText Label="IMPRESSION">{impression}</AbstractText>
</Abstract></Article></MedlineCitation><MeSH><major>{mesh}</major></MeSH>
<parentImage id="CXR{uid}_IM-0001-1001"/></eCitation>"""


def openi(root, count):
    source = Phantoms(count, 128)
    (root / "ecgen-radiology").mkdir(parents=True)
    for uid in range(count):
        findings, impression = source.text(uid)[0].removeprefix("FINDINGS: ").split(" IMPRESSION: ")
        mesh = "normal" if uid % 2 else "Pleural Effusion/left"
        text = XML.format(uid=uid, findings=findings, impression=impression, mesh=mesh)
        (root / f"ecgen-radiology/{uid}.xml").write_text(text)
        Image.fromarray(source.image(uid)).save(root / f"CXR{uid}_IM-0001-1001.png")
    return root


def run(data, out, script="openi.sh", **more):
    python = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": python, "OUT": str(out), "OMP_NUM_THREADS": "1", **more}
    return subprocess.run(
        ["bash", ROOT / "runs" / script, data], env=environment, capture_output=True, text=True, timeout=1500
    )


@pytest.mark.slow
def test_the_script_makes_a_model_and_judges_it(tmp_path):
    data, out = openi(tmp_path / "open-i", 90), tmp_path / "out"
    before = sorted(path.name for path in data.rglob("*"))
    result = run(data, out, STEPS="2", BATCH="4")
    assert result.returncode == 0, result.stderr[-3000:]
    assert sorted(path.name for path in data.rglob("*")) == before  # nothing is written there
    for stage in ("vae", "vit", "1", "2", "3"):
        config = json.loads((out / f"stage-{stage}/checkpoint.best/config.json").read_text())
        assert config["model"]["recipe"] == "small" and config["history"][-1]["stage"] == stage
    report = json.loads((out / "report/results.json").read_text())
    names = [row["name"] for row in report["beside"]["rows"]]
    assert names[:4] == ["this run", "nearest training film", "this run, shuffled", "one text for every film"]
    image = json.loads((out / "image/results.json").read_text())
    assert image["floor"]["fd"] < image["table_3"]["fd"]  # two steps draw nothing that looks like a film
    assert (out / "image/report.html").is_file() and (out / "rebuilt.png").is_file()


@pytest.mark.slow
def test_what_transfers_is_measured_from_two_starts(tmp_path):
    data = openi(tmp_path / "open-i", 90)
    cleaned = data / "cleaned.jsonl"
    clean = [sys.executable, ROOT / "data.py", "clean", data, "--out", cleaned, "--hold-out", "0.1"]
    subprocess.run(clean, check=True, capture_output=True)
    result = run(cleaned, tmp_path / "transfer", "transfer.sh", STEPS="2", READ="2")
    assert result.returncode == 0, result.stderr[-3000:]
    starts = [tmp_path / f"transfer/{start}-read/metrics.jsonl" for start in ("shipped", "untrained")]
    shipped, untrained = (json.loads(start.read_text().splitlines()[-1]) for start in starts)
    assert shipped["validate_loss"] < untrained["validate_loss"]  # it knows words at least


@pytest.mark.slow
def test_what_is_no_data_set_ends_the_script_in_one_line(tmp_path):
    (tmp_path / "empty").mkdir()
    result = run(tmp_path / "empty", tmp_path / "out", STEPS="2")
    lines = [line for line in result.stderr.splitlines() if line]
    assert result.returncode == 2 and len(lines) == 1 and "no data set known here" in lines[0]


def test_a_folder_that_holds_a_run_on_other_films_is_refused(tmp_path):
    first, second, out = tmp_path / "first", tmp_path / "second", tmp_path / "out"
    for data in (first, second):
        data.mkdir()
    assert "no data set known here" in run(first, out, STEPS="2").stderr
    assert f"OUT={out}: holds a run on {first}; name another folder" in run(second, out, STEPS="2").stderr
    assert "no data set known here" in run(first, out, STEPS="2").stderr


@pytest.mark.parametrize("what", ["junk", "table-5 junk"])
def test_the_ablation_knows_what_it_is_asked_for(tmp_path, what):
    result = run(tmp_path, tmp_path / "out", "ablation.sh", WHAT=what)
    assert result.returncode == 2 and result.stderr == f"error: WHAT={what}: give table-5 or repa\n"
