"""--resume goes on only with what belongs together, from the newest checkpoint that is sound."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn

from checkpoints.manifest import write_manifest
from common.errors import UserError
from training.state import State, name_run, read_state, restore, write_state
from weights import save_checkpoint

ROOT = Path(__file__).parents[2]
SETTINGS = {"stage": "1", "recipe": {"steps": 9, "batch": 2, "micro_batch": 1}, "seed": 0}


class Run:
    """A run that trains one parameter of three; the head's bias never gets a gradient."""

    def __init__(self, width=3, run="abc"):
        torch.manual_seed(0)
        self.heads = nn.ModuleDict({"head": nn.Linear(width, 2)})
        self.trained = {f"heads/{name}": parameter for name, parameter in self.heads.named_parameters()}
        self.optimizer = torch.optim.AdamW(self.trained.values())
        self.state = State(SETTINGS, run=run)

    def step(self):
        self.optimizer.zero_grad()
        self.heads["head"].weight.square().sum().backward()
        self.optimizer.step()
        self.state.step += 1

    def save(self, out, micro):
        save_checkpoint(
            out / "checkpoint",
            micro,
            more=lambda folder: write_state(folder, self.state, self.optimizer, self.trained, self.heads),
            keep_last=True,
            mark=self.state.mark if self.state.run else None,
        )

    def restore(self, out):
        restore(out, self.optimizer, self.trained, self.heads)


@pytest.fixture
def out(micro, tmp_path):
    """The folder of a run with one checkpoint, of step 2."""
    run = Run()
    run.step()
    run.step()
    run.save(tmp_path / "run", micro)
    return tmp_path / "run"


def forge(out, change, metadata=None):
    """Change training.safetensors and make marks and manifest agree, as no accident would."""
    path = out / "checkpoint/training.safetensors"
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path, metadata)
    write_manifest(out / "checkpoint", Run().state.mark._replace(step=2))


def test_a_state_is_read_and_restored_bit_for_bit(out):
    state, run, again = read_state(out), Run(), Run()
    assert (state.run, state.step, state.tensors, state.folder) == ("abc", 2, 5, out / "checkpoint")
    assert state.settings == SETTINGS and "folder" not in json.loads((out / "checkpoint/training.json").read_text())
    for _ in range(2):
        run.step()
    again.restore(out)
    for each in (run, again):
        each.step()
    assert all(torch.equal(a, b) for a, b in zip(run.trained.values(), again.trained.values(), strict=True))


@pytest.mark.parametrize("manifest", [True, False])
@pytest.mark.parametrize("name", ["model.safetensors", "vae.safetensors", "training.safetensors", "training.json"])
@pytest.mark.parametrize("other", ["step", "run"])
def test_a_file_of_another_step_or_run_is_refused(micro, out, tmp_path, name, other, manifest):
    run = Run(run="abc" if other == "step" else "other")
    for _ in range(3 if other == "step" else 2):
        run.step()
    run.save(tmp_path / "other", micro)
    if not manifest:
        (out / "checkpoint/manifest.json").unlink()
    shutil.copy(tmp_path / "other/checkpoint" / name, out / "checkpoint" / name)
    with pytest.raises(UserError, match=r"is not what was saved|bytes, .* were saved|belongs to run"):
        read_state(out)


@pytest.mark.parametrize("manifest", [True, False])
def test_a_changed_step_is_refused(out, manifest):
    path = out / "checkpoint/training.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"step": 1}))
    write_manifest(out / "checkpoint") if manifest else (out / "checkpoint/manifest.json").unlink()
    with pytest.raises(UserError, match=r"belongs to (run abc, step 1|no run)"):
        read_state(out)


def test_a_changed_step_of_a_checkpoint_without_names_is_refused(micro, tmp_path):
    run = Run(run="")
    run.step()
    run.save(tmp_path, micro)
    (tmp_path / "checkpoint/manifest.json").unlink()
    Run().restore(tmp_path)
    path = tmp_path / "checkpoint/training.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"step": 4}))
    with pytest.raises(UserError, match=r"was stored after step 1, training\.json after step 4"):
        Run().restore(tmp_path)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda t: t.pop("heads/head.weight/exp_avg"), r"1 tensors missing \(heads/head\.weight/exp_avg\)"),
        (lambda t: [t.pop(n) for n in list(t) if n.count("/") == 2], "holds 2 tensors, training.json counts 5"),
        (lambda t: t.pop("heads/head.bias"), r"1 tensors missing \(heads/head\.bias\)"),
        (lambda t: t.update({"model/x/step": torch.zeros(())}), r"1 tensors of another run \(model/x/step\)"),
        (lambda t: t["heads/head.weight/exp_avg"].fill_(float("nan")), "1 tensors not of finite float32"),
        (lambda t: t.update({"heads/head.weight/step": torch.tensor(1)}), "1 tensors not of finite float32"),
        (lambda t: t["heads/head.weight/step"].fill_(7), r"stored after step 7, training\.json after step 2"),
    ],
)
def test_moments_that_are_not_this_runs_are_refused(out, change, words):
    forge(out, change)
    run = Run()
    before = [parameter.clone() for parameter in run.trained.values()]
    with pytest.raises(UserError, match=words):
        run.restore(out)
    assert all(torch.equal(a, b) for a, b in zip(before, run.trained.values(), strict=True))


def test_the_moments_of_another_model_are_refused(out):
    with pytest.raises(UserError, match=r"tensors of a wrong shape \(heads/head\.weight, heads/head\.weight/exp_avg, "):
        Run(width=4).restore(out)


@pytest.mark.parametrize(
    "values",
    [
        {"step": "2"},
        {"step": None},
        {"step": -1},
        {"seconds": "1"},
        {"settings": []},
        {"settings": {}},
        {"more": 1},
        {"run": 3},
        {"tensors": None},
    ],
)
def test_a_training_json_that_no_run_writes_is_refused(out, values):
    path = out / "checkpoint/training.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))
    (out / "checkpoint/manifest.json").unlink()
    with pytest.raises(UserError, match=r"training\.json"):
        read_state(out)


def test_a_runs_name_tells_what_it_computes():
    modules, history = [nn.Linear(3, 2)], [{"stage": "vit"}]
    name = name_run(SETTINGS, history, modules)
    longer = {**SETTINGS, "recipe": {**SETTINGS["recipe"], "steps": 90, "micro_batch": 2}}
    assert name_run(longer, history, modules) == name and len(name) == 12
    others = [({**SETTINGS, "seed": 1}, history, modules), (SETTINGS, [], modules)]
    others += [(SETTINGS, history, [nn.Linear(3, 2)])]
    assert len({name, *(name_run(*other) for other in others)}) == 4


# ---- the command -------------------------------------------------------------------------------------------------


def train(micro_folder, out, steps, *more, returncode=0):
    flags = ["--stage", "2", "--data", "phantom:12", "--workers", 0, "--batch", 4, "--size", 64, "--device", "cpu"]
    flags += ["--init", micro_folder, "--out", out, "--steps", steps, "--save-every", 2, "--sample-every", 100, *more]
    result = subprocess.run(
        [sys.executable, *map(str, [ROOT / "train.py", *flags])],
        cwd=out.parent,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert result.returncode == returncode, result.stderr
    return result


@pytest.mark.slow
def test_a_damaged_checkpoint_is_passed_over_and_the_run_ends_the_same(micro_folder, tmp_path):
    out = tmp_path / "run"
    first = train(micro_folder, out, 4, "--resume")
    assert f"--resume: nothing was saved in {out} yet; starting anew" in first.stdout
    names = ["model.safetensors", "vae.safetensors", "training.safetensors"]
    whole = [(out / "checkpoint" / name).read_bytes() for name in names]
    damaged = bytearray(whole[2])
    damaged[-1] ^= 1
    (out / "checkpoint/training.safetensors").write_bytes(damaged)
    again = train(micro_folder, out, 4, "--resume")
    warning = [line for line in again.stderr.splitlines() if line.startswith("warning:")]
    assert len(warning) == 1 and "training.safetensors: is not what was saved" in warning[0]
    assert "going on after step 2" in again.stdout
    assert [(out / "checkpoint" / name).read_bytes() for name in names] == whole

    for folder in ("checkpoint", "checkpoint.old"):
        (out / folder / "training.safetensors").write_bytes(damaged[:-1])
    before = sorted(path.name for path in out.iterdir())
    refused = train(micro_folder, out, 4, "--resume", returncode=2)
    last = refused.stderr.strip().splitlines()
    assert len(last) == 1 and last[0].startswith("error: ") and "damaged too" in last[0]
    assert sorted(path.name for path in out.iterdir()) == before
