"""What a run needs to go on, beside its weights: training.json and training.safetensors. No pickle.

What a run does follows from its settings, its seed and the number of the step alone (`data.py` gives every example a
generator of its own). So the state is small: the step, and the optimizer's moments. A run is named by what it computes
(`name_run`), and its name and step stand in every file, so that it goes on only with what belongs together.
"""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn

from checkpoints.folders import find_checkpoint
from checkpoints.manifest import MEND, Mark, read_object
from checkpoints.plan import is_finite
from checkpoints.tensors import listed
from common.errors import UserError
from training.average import MovingAverage

MOMENTS = ("step", "exp_avg", "exp_avg_sq")  # AdamW's state of one parameter
RAW = "weight"  # the parameter itself, where the model beside holds an average


@dataclass
class State:
    """Where a run stands."""

    settings: dict = field(default_factory=dict)  # what must be the same when the run goes on
    step: int = 0  # finished steps
    seconds: float = 0.0  # of training, over all its sessions
    run: str = ""  # see `name_run`; "" in a checkpoint older than these names
    tensors: int = 0  # in training.safetensors; 0: unknown, as `run`
    best: float | None = None  # the lowest validation loss so far, whose weights are kept beside
    folder: Path | None = None  # the checkpoint it was read from; not written

    @property
    def mark(self) -> Mark:
        return Mark(self.run, self.step)


def name_run(settings: dict, history: list[dict], modules: list[nn.Module]) -> str:
    """12 hex digits of what a run computes: its settings, and the weights it starts from (some numbers of each tensor).

    Two runs of one name go through the same states, wherever they lie. More steps do not rename a run.
    """
    recipe = {name: value for name, value in settings["recipe"].items() if name not in ("steps", "micro_batch")}
    digest = hashlib.sha256(json.dumps([{**settings, "recipe": recipe}, history], sort_keys=True).encode())
    for module in modules:
        for name, tensor in module.state_dict().items():
            digest.update(name.encode() + tensor.detach().reshape(-1)[:64].float().cpu().numpy().tobytes())
    return digest.hexdigest()[:12]


def write_state(
    folder: Path,
    state: State,
    optimizer: torch.optim.Optimizer,
    trained: dict[str, nn.Parameter],
    heads: nn.Module,
    average: MovingAverage | None = None,
) -> None:
    """Put training.json and training.safetensors into a checkpoint's folder. heads: modules that train and are dropped
    at the end of the stage. With a sharded optimizer, its state must have been consolidated.

    average: its values are in place, as the model beside holds them; the weights that train on are written here.
    """
    tensors = {f"heads/{name}": tensor.detach().cpu().contiguous() for name, tensor in heads.state_dict().items()}
    stored = optimizer.state_dict()["state"]
    for i, name in enumerate(trained):
        tensors |= {f"{name}/{moment}": stored[i][moment].cpu().contiguous() for moment in MOMENTS if i in stored}
    for name, raw in average.values.items() if average else ():
        tensors[f"{name}/{RAW}"] = raw.cpu().contiguous()
    save_file(tensors, folder / "training.safetensors", state.mark.metadata() if state.run else None)
    values = {**vars(state), "tensors": len(tensors)}
    del values["folder"]
    (folder / "training.json").write_text(json.dumps(values, indent=1) + "\n")


def read_state(out: Path) -> State | None:
    """The state of the run in OUT, at its newest sound checkpoint; None if nothing was saved yet.

    Raises UserError if all that was saved is damaged, or is no run.
    """
    folder = find_checkpoint(out)
    return None if folder is None else state_in(folder)


def state_in(folder: Path) -> State:
    """The state in the folder of a checkpoint. Raises UserError naming what is wrong with it."""
    path = folder / "training.json"
    if not path.is_file():
        raise UserError(f"{folder}: no training.json: weights, not a run to go on with; name it by --init")
    values = read_object(path)
    try:
        state = State(**{**values, "folder": folder})
        kinds = [(state.step, int), (state.tensors, int), (state.run, str), (state.settings, dict)]
        sound = all(type(value) is kind for value, kind in kinds) and type(state.seconds) in (int, float)
        sound = sound and (state.best is None or (type(state.best) in (int, float) and math.isfinite(state.best)))
        if not (sound and state.step >= 0 and 0 <= state.seconds < math.inf and "recipe" in state.settings):
            raise ValueError("step, seconds or settings are not what a run writes")
    except (ValueError, TypeError) as error:
        raise UserError(f"{path}: not the state of a run ({error}); {MEND}") from error
    return state


@torch.no_grad()
def restore(
    out: Path,
    optimizer: torch.optim.Optimizer,
    trained: dict[str, nn.Parameter],
    heads: nn.Module,
    average: MovingAverage | None = None,
) -> None:
    """Give optimizer and heads what `write_state` stored; the weights themselves come with the checkpoint.

    With an average, what came with the checkpoint is the average, and the weights that train on come from here.
    Raises UserError, before anything is changed, if what is stored is not the whole state of this run at its step.
    """
    folder = find_checkpoint(out)
    if folder is None:
        raise UserError(f"{out}: no checkpoint in it")
    state, path = state_in(folder), folder / "training.safetensors"
    try:
        with safe_open(path, framework="pt") as file:
            stored = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path}: not the whole state of this run ({error}); {MEND}") from error
    shapes = {f"heads/{name}": tensor.shape for name, tensor in heads.state_dict().items()}
    for name, parameter in trained.items():
        if f"{name}/step" in stored:  # a parameter that never had a gradient has no moments
            shapes |= {f"{name}/{moment}": parameter.shape if moment != "step" else () for moment in MOMENTS}
        if average:
            shapes[f"{name}/{RAW}"] = parameter.shape
    problems = {
        "missing": [name for name in shapes if name not in stored],
        "of another run": [name for name in stored if name not in shapes],
        "of a wrong shape": [n for n in shapes if n in stored and tuple(stored[n].shape) != tuple(shapes[n])],
        "not of finite float32": [n for n, t in stored.items() if t.dtype != torch.float32 or not is_finite(t)],
    }
    for what, names in problems.items():
        if names:
            raise UserError(f"{path}: {len(names)} tensors {what} ({listed(sorted(names))}); {MEND}")
    if state.tensors not in (0, len(stored)):
        raise UserError(f"{path}: holds {len(stored)} tensors, training.json counts {state.tensors}; {MEND}")
    steps = max((int(stored[f"{name}/step"]) for name in trained if f"{name}/step" in stored), default=0)
    if steps != state.step:  # some parameter has a gradient at every step
        raise UserError(f"{path}: was stored after step {steps}, training.json after step {state.step}; {MEND}")
    heads.load_state_dict({name: stored[f"heads/{name}"] for name in heads.state_dict()})
    for name, parameter in trained.items() if average else ():
        average.values[name].copy_(parameter)
        parameter.copy_(stored[f"{name}/{RAW}"])
    moments = {
        i: {moment: stored[f"{name}/{moment}"] for moment in MOMENTS}
        for i, name in enumerate(trained)
        if f"{name}/step" in stored
    }
    groups = [{key: value for key, value in group.items() if key != "params"} for group in optimizer.param_groups]
    groups[0]["params"] = list(range(len(trained)))
    optimizer.load_state_dict({"state": moments, "param_groups": groups})
