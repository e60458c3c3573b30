"""--resume goes on only with what belongs together, from the newest checkpoint that is sound."""

import contextlib
import json
import shutil
from dataclasses import asdict, replace

import pytest
import torch
from torch import nn

import train as command
from common import devices
from common.distributed import Team
from common.errors import UserError
from common.files import SHIPPED
from inside import run_inside
from published import edit
from training.average import MovingAverage
from training.recipe import Recipe, check_same
from training.run import Run as SavedRun
from training.state import State, Trained, begin, read_state, restore, write_state
from weights import save_checkpoint

RECIPE = Recipe(1e-3, 64, 2, 0, 9, micro_batch=1)


class Run:
    """A run that trains one parameter of three; the head's bias never gets a gradient."""

    def __init__(self, micro, run="abc", ema=False):
        torch.manual_seed(0)
        heads = nn.ModuleDict({"head": nn.Linear(3, 2)})
        parameters = {f"heads/{name}": parameter for name, parameter in heads.named_parameters()}
        average = MovingAverage(parameters, 0.5) if ema else None
        optimizer = torch.optim.AdamW(parameters.values())
        self.trained = Trained(micro, {}, parameters, heads, optimizer, average)
        self.state = State("1", asdict(RECIPE), run)

    def step(self):
        self.trained.optimizer.zero_grad()
        self.trained.heads["head"].weight.square().sum().backward()
        self.trained.optimizer.step()
        if self.trained.average:
            self.trained.average.update(self.state.step)
        self.state.step += 1

    def save(self, out):
        average = self.trained.average
        with average.in_place() if average else contextlib.nullcontext():
            save_checkpoint(
                out / "checkpoint",
                self.trained.checkpoint,
                more=lambda folder: write_state(folder, self.state, self.trained),
                keep_last=True,
                run=self.state.run,
                step=self.state.step,
            )

    def values(self):
        return [
            *self.trained.parameters.values(),
            *(self.trained.average.values.values() if self.trained.average else ()),
        ]


@pytest.fixture
def out(micro, tmp_path):
    """The folder of a run with one checkpoint, of step 2."""
    run = Run(micro)
    run.step()
    run.step()
    run.save(tmp_path / "run")
    return tmp_path / "run"


@pytest.mark.parametrize("ema", [False, True])
def test_a_state_is_read_and_restored_bit_for_bit(micro, tmp_path, ema):
    run, again = Run(micro, ema=ema), Run(micro, ema=ema)
    for _ in range(2):
        run.step()
    run.save(tmp_path)
    state = read_state(tmp_path)
    assert (state.run, state.step, state.folder, state.recipe) == ("abc", 2, tmp_path / "checkpoint", asdict(RECIPE))
    with pytest.raises(UserError, match="was started with --stage 1; name another --out"):
        read_state(tmp_path, stage="2")
    assert "folder" not in json.loads((tmp_path / "checkpoint/training.json").read_text())
    with torch.no_grad():  # as the checkpoint's own weights would come: those that were saved
        for parameter, saved in zip(again.trained.parameters.values(), run.values()[-2:], strict=True):
            parameter.copy_(saved)
    restore(state, again.trained)
    again.state.step = state.step
    for each in (run, again):
        each.step()
    assert all(torch.equal(a, b) for a, b in zip(run.values(), again.values(), strict=True))


@pytest.mark.parametrize("name", ["model.safetensors", "vae.safetensors", "training.safetensors", "training.json"])
@pytest.mark.parametrize("other", ["step", "run"])
def test_a_file_of_another_step_or_run_is_refused(micro, out, tmp_path, name, other):
    run = Run(micro, run="abc" if other == "step" else "other")
    for _ in range(3):
        run.step()
    run.save(tmp_path / "other")
    if name in ("model.safetensors", "vae.safetensors"):  # these two do not train here
        edit(tmp_path / "other/checkpoint" / name, lambda tensors: next(iter(tensors.values())).add_(1))
    shutil.copy(tmp_path / "other/checkpoint" / name, out / "checkpoint" / name)
    with pytest.raises(UserError, match=r"is not what was saved|bytes, .* were saved"):
        read_state(out)


@pytest.mark.parametrize(
    "values",
    [
        {"step": "2"},
        {"step": None},
        {"step": -5},
        {"step": 1.5},
        {"seconds": "1"},
        {"seconds": float("inf")},
        {"seconds": None},
        {"best": float("nan")},
        {"settings": {"stage": "1", "recipe": {}}},  # of a version before all knobs were in the recipe
        {"recipe": None},
        {"recipe": {}},
        {"recipe": asdict(RECIPE) | {"novelty": 1}},
        {"more": 1},
    ],
)
def test_a_training_json_that_no_run_of_this_version_writes_is_refused_in_one_line(out, values):
    path = out / "checkpoint/training.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))
    (out / "checkpoint/manifest.json").unlink()
    with pytest.raises(UserError, match=r"^.*training\.json: [^\n]*$"):
        read_state(out)


def test_a_training_json_of_a_thousand_brackets_is_refused_in_one_line(out):
    (out / "checkpoint/training.json").write_text('{"settings": ' * 100_000)
    (out / "checkpoint/manifest.json").unlink()
    with pytest.raises(UserError, match=r"^.*training\.json: [^\n]*$"):
        read_state(out)


def test_a_runs_name_tells_what_it_computes(tmp_path):
    def name(history=(), stage="1", **changed):
        return begin(tmp_path, stage, replace(RECIPE, **changed), list(history), writes=False).run

    assert len(name()) == 12 and name(steps=90, micro_batch=2) == name()  # neither changes what a step computes
    assert len({name(), name(seed=1), name(mix="1:3"), name(stage="2"), name(history=[{"stage": "vit"}])}) == 5


def test_a_run_goes_on_with_its_own_recipe_alone(tmp_path):
    check_same(RECIPE, {}, tmp_path)
    check_same(RECIPE, {"micro_batch": 4, "steps": 90, "learning_rate": 1e-3}, tmp_path)
    for asked, words in (
        ({"steps": 8}, "with --steps 9, not with --steps 8"),
        ({"learning_rate": 0.5}, "with --lr 0.001, not with --lr 0.5"),
        ({"observations": "only"}, "without --observations, not with --observations only"),
        ({"validate": "phantom:10"}, "without --validate, not with --validate phantom:10"),
        ({"augment": True}, "with --no-augment, not with --augment"),
    ):
        with pytest.raises(UserError, match=f"^--resume: {tmp_path} was started {words}; leave that out"):
            check_same(RECIPE, asked, tmp_path)
    with pytest.raises(UserError, match="with --steps 9, not with --steps 90"):  # the rate has begun to fall
        check_same(replace(RECIPE, decay=0.5), {"steps": 90}, tmp_path)


def test_a_run_goes_on_from_its_own_start_alone(tmp_path):
    state = State("1", asdict(RECIPE), "abc", start={"init": "/weights/start", "dtype": "float32"})
    state.check_start(tmp_path, init=None, dtype="float32")
    for given in ({"init": "/weights/other"}, {"init": "scratch:tiny"}, {"dtype": "bfloat16"}):
        ((name, value),) = given.items()
        words = f"was started with --{name} {state.start[name]}, not with --{name} {value}; leave that out"
        with pytest.raises(UserError, match=words):
            state.check_start(tmp_path, **given)
    state.start["init"] = None
    with pytest.raises(UserError, match="was started without --init, not with --init /weights/start"):
        state.check_start(tmp_path, init="/weights/start")
    State("1", asdict(RECIPE), "abc").check_start(tmp_path, init="/any", dtype="any")  # a run older than this


@pytest.mark.parametrize("clock", [lambda: 5.0, iter([5.0, -100.0, -200.0, -300.0]).__next__])
def test_a_clock_that_stands_still_or_steps_back_costs_nothing(micro, tmp_path, monkeypatch, clock):
    monkeypatch.setattr("training.run.time.monotonic", clock)
    monkeypatch.setattr("training.run.time.time", lambda: pytest.fail("the clock on the wall may be set"))
    run = SavedRun(
        out=tmp_path,
        team=Team(0, 1, torch.device("cpu")),
        recipe=RECIPE,
        trained=Run(micro).trained,
        examples=None,
        validation=None,
        state=State("1", asdict(RECIPE), "abc", seconds=7.0),
        save_every=100,
        profile=True,
    )
    run.after({"loss": 1.0})
    assert 7.0 <= run.state.seconds < 7.001
    shown = run.bar.postfix
    assert "samples/s" in shown and "-" not in shown


# ---- the command -------------------------------------------------------------------------------------------------


def train(micro_folder, out, steps, *more, returncode=0):
    flags = ["--stage", "2", "--data", "phantom:12", "--workers", 0, "--batch", 4, "--size", 64, "--device", "cpu"]
    flags += ["--init", micro_folder, "--out", out, "--steps", steps, "--save-every", 2, "--look-every", 100, *more]
    result = run_inside(command.main, *flags, cwd=out.parent)
    assert result.returncode == returncode, result.stderr
    return result


@pytest.mark.slow
def test_another_start_is_refused_and_an_earlier_runs_best_goes(micro_folder, tmp_path, monkeypatch):
    out = tmp_path / "run"
    validated = ("--validate", "phantom:4", "--look-every", 2)
    train(micro_folder, out, 2, *validated)
    assert (out / "checkpoint.best").is_dir()
    for more, words in ((("--init", SHIPPED), "--init"), (("--dtype", "bfloat16"), "--dtype bfloat16")):
        refused = train(micro_folder, out, 4, "--resume", *more, returncode=2)
        assert refused.stderr.startswith(f"error: --resume: {out} was started with") and words in refused.stderr
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: True)
    monkeypatch.setattr(devices, "product_seconds", lambda dtype=torch.float32: dtype == torch.float32)
    went_on = train(micro_folder, out, 4, "--resume", "--dtype", "fast", *validated)  # on another machine, say
    assert "stage 2 on cpu, torch.float32" in went_on.stdout
    assert (out / "checkpoint.best").is_dir()
    train(micro_folder, out, 2)  # another run in the same folder, which validates nothing
    assert (out / "checkpoint").is_dir() and not (out / "checkpoint.best").exists()


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
