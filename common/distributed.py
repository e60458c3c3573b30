"""A run that survives: the processes that share it, the signals that stop it, and the state on disk to go on from.

What a run is going to do follows from its settings, its seed and the number of the step alone (`data.py` gives every
example a generator of its own), so the state is small: weights, the optimizer's moments, and training.json. It lies
beside the weights in OUT/checkpoint; the one before is kept as OUT/checkpoint.old. No pickle anywhere.
"""

from __future__ import annotations

import os
import signal
from dataclasses import dataclass
from types import FrameType

import torch
import torch.distributed as dist

from common.errors import UserError


@dataclass(frozen=True)
class Team:
    """The processes of a run. Alone, nothing is communicated."""

    rank: int
    size: int
    device: torch.device

    @property
    def is_main(self) -> bool:
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
