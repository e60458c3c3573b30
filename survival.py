"""A run that survives: the processes that share it, the signals that stop it, and the state on disk to go on from.

What a run is going to do follows from its settings, its seed and the number of the step alone (`data.py` gives every
example a generator of its own), so the state is small: weights, the optimizer's moments, and training.json. It lies
beside the weights in OUT/checkpoint; the one before is kept as OUT/checkpoint.old. No pickle anywhere.
"""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

import torch
import torch.distributed as dist
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn

from errors import UserError
from weights import find_checkpoint

MOMENTS = ("step", "exp_avg", "exp_avg_sq")  # AdamW's state of one parameter


@dataclass(frozen=True)
class Team:
    """The processes of a run. Alone, nothing is communicated."""

    rank: int
    size: int
    device: torch.device

    @property
    def leader(self) -> bool:
        """Whether this process writes files and talks."""
        return self.rank == 0

    def sum(self, values: list[float]) -> list[float]:
        """Sums over the team, in float64; every process gets the same."""
        if self.size == 1:
            return values
        total = torch.tensor(values, dtype=torch.float64, device=self.device)
        dist.all_reduce(total)
        return total.tolist()


def join_team(device: torch.device) -> Team:
    """Under torchrun: NCCL with one GPU a process, or Gloo on CPUs. Otherwise a team of one."""
    if "LOCAL_RANK" not in os.environ:
        return Team(0, 1, device)
    if device.type == "cuda":
        device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        if device.index >= torch.cuda.device_count():
            raise UserError(
                f"torchrun asks for {os.environ['LOCAL_WORLD_SIZE']} processes, this machine has"
                f" {torch.cuda.device_count()} GPUs; lower --nproc_per_node, or train with --device cpu"
            )
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    return Team(dist.get_rank(), dist.get_world_size(), device)


def leave_team(together: bool) -> None:
    """together: everybody is leaving, so wait for the last (the leader still saves); otherwise one has failed."""
    if dist.is_initialized():
        if together:
            dist.barrier()
        dist.destroy_process_group()


class StopSignal:
    """SIGTERM (schedulers, torchrun) and SIGINT (Ctrl-C) ask the loop to save and leave; a second SIGINT insists."""

    def __init__(self) -> None:
        self.asked = False
        signal.signal(signal.SIGTERM, self._ask)
        signal.signal(signal.SIGINT, self._ask)

    def _ask(self, number: int, frame: FrameType | None) -> None:
        if self.asked and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.asked = True


# ---- the state on disk -------------------------------------------------------------------------------------------


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


def unbroken(batches: Iterator) -> Iterator:
    """The batches, with what goes wrong in a loading process said in one line."""
    while True:
        try:
            batch = next(batches)
        except StopIteration:
            return
        except UserError as error:  # of a worker: torch puts a traceback into the message
            raise UserError(str(error).strip().splitlines()[-1].split("UserError: ")[-1]) from error
        except RuntimeError as error:
            if "DataLoader worker" not in str(error):
                raise
            raise UserError(
                "a data loading process died (out of memory?); go on with --resume, and fewer --workers"
            ) from error
        yield batch
