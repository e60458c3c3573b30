"""What a run needs to go on, beside its weights: training.json and training.safetensors. No pickle.

What a run does follows from its settings, its seed and the number of the step alone (`data.py` gives every example a
generator of its own). So the state is small: the step, and the optimizer's moments.
"""

import hashlib
import json
import math
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from checkpoints.folders import find_checkpoint
from common.errors import UserError
from common.files import read_json
from common.ownership import own_folder
from training.average import MovingAverage
from training.recipe import Recipe
from weights import Checkpoint

MOMENTS = ("step", "exp_avg", "exp_avg_sq")  # AdamW's state of one parameter, and Muon's
RAW = "weight"  # the parameter itself, where the model beside holds an average


@dataclass
class Trained:
    """What a stage trains, and with what."""

    checkpoint: Checkpoint  # the networks
    originals: dict[str, torch.Tensor]  # of the model, to be saved in place of what it computes with
    parameters: dict[str, nn.Parameter]  # that train, by name, those of the heads among them
    heads: nn.ModuleDict  # train with the stage and are dropped at its end
    optimizer: torch.optim.Optimizer  # AdamW, perhaps sharded; of the parameters in their order
    average: MovingAverage | None  # of the parameters (--ema)


@dataclass
class State:
    """Where a run stands."""

    stage: str
    recipe: dict
    run: str  # its name
    step: int = 0  # finished steps
    seconds: float = 0.0  # of training, over all its sessions
    best: float | None = None  # the lowest validation loss so far, whose weights are kept beside
    start: dict = field(default_factory=dict)  # what was given at the start and stays: --init, --dtype
    folder: Path | None = None  # the checkpoint it was read from; not written

    def check_start(self, out: Path, **given: str | None) -> None:
        """Raises UserError for an --init or --dtype that the run in OUT was not started with."""
        for name, value in given.items():
            there = self.start.get(name, value)  # older runs kept neither
            if value is not None and value != there:
                was = f"with --{name} {there}" if there else f"without --{name}"
                raise UserError(f"--resume: {out} was started {was}, not with --{name} {value}; leave that out")


def begin(out: Path, stage: str, recipe: Recipe, history: list[dict], writes: bool) -> State:
    """The state of a run that starts from weights of this history, named by what it computes; its folder is made.

    Raises UserError if a run that is not finished, or is damaged, would be lost: forgetting --resume must not cost a
    week.
    """
    if writes:
        if (there := read_state(out)) and there.step < there.recipe["steps"]:
            mend = "add --resume, or name another --out"
            raise UserError(f"--out {out}: holds a run at step {there.step}, which is not finished; {mend}")
        own_folder(out)
        (out / "samples").mkdir(exist_ok=True)
    named = json.dumps([stage, asdict(recipe) | {"steps": None, "micro_batch": None}, history], sort_keys=True)
    return State(stage, asdict(recipe), hashlib.sha256(named.encode()).hexdigest()[:12])


def write_state(folder: Path, state: State, trained: Trained) -> None:
    """Put training.json and training.safetensors into a checkpoint's folder. The state of a sharded optimizer must have
    been consolidated. An average is in place, as the model beside holds it; the weights that train on go here."""
    tensors = {f"heads/{name}": tensor for name, tensor in trained.heads.state_dict().items()}
    stored = trained.optimizer.state_dict()["state"]
    for i, name in enumerate(trained.parameters):
        tensors |= {f"{name}/{moment}": stored[i][moment] for moment in MOMENTS if moment in stored.get(i, ())}
    if trained.average:
        tensors |= {f"{name}/{RAW}": raw for name, raw in trained.average.values.items()}
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    save_file(tensors, folder / "training.safetensors")
    values = {name: value for name, value in vars(state).items() if name != "folder"}
    (folder / "training.json").write_text(json.dumps(values, indent=1) + "\n")


def read_state(out: Path, stage: str | None = None) -> State | None:
    """The state of the run in OUT, at its newest sound checkpoint; None if nothing was saved yet. Raises UserError if
    all that was saved is damaged, is no run, or is one of another version or not of this stage."""
    folder = find_checkpoint(out)
    if folder is None:
        return None
    path = folder / "training.json"
    if not path.is_file():
        raise UserError(f"{folder}: no training.json: weights, not a run to go on with; name it by --init")
    try:
        state = State(**read_json(path), folder=folder)
        Recipe(**state.recipe)
        math.fsum([math.isqrt(state.step), state.seconds, state.best or 0])  # steps: whole, and not below 0
    except (TypeError, ValueError) as error:
        raise UserError(f"{path}: not the state of a run that this version began; name another --out") from error
    if stage not in (None, state.stage):
        raise UserError(f"--resume: {out} was started with --stage {state.stage}; name another --out")
    return state


@torch.no_grad()
def restore(state: State, trained: Trained) -> None:
    """Give what trains its moments and heads and, with an average, the weights to train on, which `write_state` stored;
    the weights themselves, or their average, come with the checkpoint. Its manifest tells that all belong together."""
    stored, names = load_file(state.folder / "training.safetensors"), [*trained.parameters]
    trained.heads.load_state_dict({name: stored[f"heads/{name}"] for name in trained.heads.state_dict()})
    for name, parameter in trained.parameters.items() if trained.average else ():
        trained.average.values[name].copy_(parameter)
        parameter.copy_(stored[f"{name}/{RAW}"])
    moments = {}  # of what never had a gradient there are none
    for i, name in enumerate(names):
        if found := {moment: stored[f"{name}/{moment}"] for moment in MOMENTS if f"{name}/{moment}" in stored}:
            moments[i] = found
    group = {**trained.optimizer.param_groups[0], "params": [*range(len(names))]}
    trained.optimizer.load_state_dict({"state": moments, "param_groups": [group]})
