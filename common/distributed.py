"""The processes that share a run, and the signals that ask it to stop.

`joined_team` gives every command the same `Team`, under torchrun and alone; nobody asks torch.distributed again.
"""

import contextlib
import os
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from types import FrameType

import torch
import torch.distributed as dist

from common.errors import UserError
from common.workers import ASKING


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

    def say(self, text: str) -> None:
        if self.is_main:
            print(text, flush=True)

    def sum(self, values: list[float]) -> list[float]:
        """Sums over the team, in float64; every process gets the same."""
        if self.size == 1:
            return values
        total = torch.tensor(values, dtype=torch.float64, device=self.device)
        dist.all_reduce(total)
        return total.tolist()

    def total(self, values: dict[str, float]) -> dict[str, float]:
        """`sum` of named values."""
        return dict(zip(values, self.sum([*values.values()]), strict=True))

    def agreed(self, dtype: torch.dtype) -> torch.dtype:
        """dtype, if all of the team have it, else float32: `--dtype fast` asks a clock, and each process its own."""
        return dtype if self.sum([float(dtype == torch.float32)])[0] == 0 else torch.float32

    def gathered(self, part: torch.Tensor) -> torch.Tensor:
        """(N, ...) of each process, all of one shape -> (size * N, ...), in the order of ranks."""
        if self.size == 1:
            return part
        part = part.contiguous()  # NCCL takes no other
        parts = [torch.empty_like(part) for _ in range(self.size)]
        dist.all_gather(parts, part)
        return torch.cat(parts)


@contextlib.contextmanager
def joined_team(device: torch.device) -> Iterator[Team]:
    """The team for the length of the block: under torchrun NCCL with one GPU a process, or Gloo on CPUs. At its end
    each process waits until the main one has saved.

    If a process dies, the others cannot go on: each raises UserError, a line that says so. One that fails by itself
    waits for nobody.
    """
    if not {"LOCAL_RANK", "RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"} <= os.environ.keys():
        yield Team(0, 1, device)  # alone, even if one of them was left over
        return
    if device.type == "cuda":
        device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        if device.index >= (count := torch.cuda.device_count()):
            mend = "lower --nproc_per_node, or give --device cpu"
            raise UserError(f"torchrun asks for more processes than the {count} GPUs of this machine; {mend}")
        torch.cuda.set_device(device)
    # The others wait while the main process saves, on a slow disk for longer than torch's ten minutes.
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=timedelta(hours=3))
    team = Team(dist.get_rank(), dist.get_world_size(), device)
    try:
        yield team
        dist.barrier()
    except RuntimeError as error:
        # Only the death of a peer or of the network makes NCCL or Gloo raise.
        if isinstance(error, dist.DistBackendError) or "gloo" in str(error).lower():
            raise UserError(
                f"process {team.rank} of {team.size} has lost another one, which was killed or failed (out of memory?);"
                " if it could still speak, its own line says why; go on with --resume"
            ) from error
        raise
    finally:
        dist.destroy_process_group()


class StopSignal:
    """`asked` becomes True at SIGTERM (schedulers, torchrun), SIGHUP (the terminal is closed) or SIGINT (Ctrl-C); the
    loop then saves and leaves. A second SIGINT raises KeyboardInterrupt at once."""

    def __init__(self) -> None:
        self.asked, self.number = False, signal.SIGTERM  # where another process was asked, as if by a scheduler
        for number in ASKING:
            if number in (signal.SIGINT, signal.SIGTERM) or signal.getsignal(number) != signal.SIG_IGN:  # nohup
                signal.signal(number, self._ask)

    def _ask(self, number: int, frame: FrameType | None) -> None:
        if self.asked and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.asked, self.number = True, number
