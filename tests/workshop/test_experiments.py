"""Lessons 4 and 5 start from what cannot draw or read yet, and train with the command itself."""

import os

import pytest

if os.environ.get("CI") != "true":  # CI must not skip in silence
    pytest.importorskip("matplotlib", reason="matplotlib is missing: pip install -e '.[workshop]'")

import matplotlib

matplotlib.use("Agg")

import torch

import experiments
from common.errors import UserError
from common.files import SHIPPED
from weights import load_checkpoint


@pytest.fixture(autouse=True)
def out(tmp_path, monkeypatch):
    monkeypatch.setattr(experiments, "OUT", tmp_path / "workshop")
    return tmp_path / "workshop"


def test_before_drawing_reads_as_the_shipped_model_and_has_never_drawn():
    start, shipped = load_checkpoint(experiments.before_drawing()), load_checkpoint(SHIPPED)
    ours = dict(start.model.named_parameters())
    assert all(torch.equal(ours[name], parameter) for name, parameter in shipped.model.und_parameters())
    twins = [name for name, _ in start.model.gen_parameters() if ".gen." in name]
    assert twins and all(torch.equal(ours[name], ours[name.replace(".gen.", ".und.")]) for name in twins)
    prompt = start.model.read_prompt([start.encode("Severe cardiomegaly.")])
    with torch.no_grad():
        v = start.model.velocity(torch.randn(1, 16, 8, 8), torch.tensor([0.5]), prompt)
    assert v.abs().max() == 0  # the first velocity of a fresh gen branch
    assert {"2", "3"} & {entry["stage"] for entry in shipped.history}
    assert not {"2", "3"} & {entry["stage"] for entry in start.history}  # else train.py keeps the gen branch


def test_before_reading_keeps_the_eye_alone():
    start, shipped = load_checkpoint(experiments.before_reading()), load_checkpoint(SHIPPED)
    same = {name for name, p in start.model.named_parameters() if torch.equal(p, shipped.model.get_parameter(name))}
    assert same == {name for name, _ in shipped.model.named_parameters() if name.startswith("vit.")}


@pytest.mark.slow
def test_runs_are_logged_step_by_step_and_not_run_twice(micro_folder, out, capsys):
    flags = ["--stage", 2, "--init", micro_folder, "--data", "phantom:4", "--batch", 2, "--size", 64, "--steps", 2]
    runs = {"a": flags, "b": [*flags, "--repa-weight", 0]}
    logs = experiments.train(runs)
    assert [[line["step"] for line in log] for log in logs.values()] == [[1, 2], [1, 2]]
    assert "repa" in logs["a"][0] and "repa" not in logs["b"][0]
    assert logs["a"][0]["mse"] == pytest.approx(logs["b"][0]["loss"])  # one start, the same examples
    weights = (experiments.run_folder("a") / "checkpoint" / "model.safetensors").read_bytes()
    assert experiments.train(runs) == logs
    assert (experiments.run_folder("a") / "checkpoint" / "model.safetensors").read_bytes() == weights


@pytest.mark.slow
def test_a_run_that_fails_says_why(micro_folder):
    with pytest.raises(UserError, match=r"a: error: --size 100: must be a multiple of 16"):
        experiments.train({"a": ["--stage", 2, "--init", micro_folder, "--size", 100]})
