"""What a run needs to go on, beside its weights: training.json and training.safetensors. No pickle.

What a run does follows from its settings, its seed and the number of the step alone (`data.py` gives every example a
generator of its own). So the state is small: the step, and the optimizer's moments.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn

from checkpoints.folders import find_checkpoint
from common.errors import UserError

MOMENTS = ("step", "exp_avg", "exp_avg_sq")  # AdamW's state of one parameter


@dataclass
class State:
    """Where a run stands."""

    settings: dict = field(default_factory=dict)  # what must be the same when the run goes on
    step: int = 0  # finished steps
    seconds: float = 0.0  # of training, over all its sessions


def write_state(
    folder: Path, state: State, optimizer: torch.optim.Optimizer, trained: dict[str, nn.Parameter], heads: nn.Module
) -> None:
    """Put training.json and training.safetensors into a checkpoint's folder. heads: modules that train and are dropped
    at the end of the stage. With a sharded optimizer, its state must have been consolidated."""
    tensors = {f"heads/{name}": tensor.detach().cpu().contiguous() for name, tensor in heads.state_dict().items()}
    stored = optimizer.state_dict()["state"]
    for i, name in enumerate(trained):
        tensors |= {f"{name}/{moment}": stored[i][moment].cpu().contiguous() for moment in MOMENTS if i in stored}
    save_file(tensors, folder / "training.safetensors")
    (folder / "training.json").write_text(json.dumps(vars(state), indent=1) + "\n")


def read_state(out: Path) -> State | None:
    """The state of the run in OUT; None if nothing was saved yet. Raises UserError if it is broken."""
    folder = find_checkpoint(out)
    if folder is None:
        return None
    try:
        return State(**json.loads((folder / "training.json").read_text()))
    except FileNotFoundError as error:
        raise UserError(f"{folder}: no training.json: weights, not a run to go on with; name it by --init") from error
    except (OSError, ValueError, TypeError) as error:
        raise UserError(f"{folder / 'training.json'}: not the state of a run ({error})") from error


def restore(out: Path, optimizer: torch.optim.Optimizer, trained: dict[str, nn.Parameter], heads: nn.Module) -> None:
    """Give optimizer and heads what `write_state` stored; the weights themselves come with the checkpoint."""
    path = find_checkpoint(out) / "training.safetensors"
    try:
        with safe_open(path, framework="pt") as file:
            heads.load_state_dict({name: file.get_tensor(f"heads/{name}") for name in heads.state_dict()})
            held = set(file.keys())
            state = {
                i: {moment: file.get_tensor(f"{name}/{moment}") for moment in MOMENTS}
                for i, name in enumerate(trained)
                if f"{name}/step" in held  # a parameter that never had a gradient has no moments
            }
    except (SafetensorError, OSError, RuntimeError) as error:
        raise UserError(f"{path}: not the whole state of this run ({error})") from error
    groups = [{key: value for key, value in group.items() if key != "params"} for group in optimizer.param_groups]
    groups[0]["params"] = list(range(len(trained)))
    optimizer.load_state_dict({"state": state, "param_groups": groups})
