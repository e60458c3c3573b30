"""The processes that share a run, and the signals that ask it to stop.

`join_team` gives every command the same `Team`, under torchrun and alone; nobody asks torch.distributed again.
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
        """Whether this process writes the files and prints."""
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
    """Leave the process group. together: every process leaves, so each waits until the main one has saved.

    Not together means that this process failed: then nobody waits.
    """
    if dist.is_initialized():
        if together:
            dist.barrier()
        dist.destroy_process_group()


class StopSignal:
    """`asked` becomes True at SIGTERM (schedulers, torchrun) or SIGINT (Ctrl-C); the loop then saves and leaves.

    A second SIGINT raises KeyboardInterrupt at once.
    """

    def __init__(self) -> None:
        self.asked = False
        signal.signal(signal.SIGTERM, self._ask)
        signal.signal(signal.SIGINT, self._ask)

    def _ask(self, number: int, frame: FrameType | None) -> None:
        if self.asked and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.asked = True
