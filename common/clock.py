"""Seconds of the parts of a step, and the memory a process has used."""

import contextlib
import sys
import time
from collections.abc import Iterator

import torch


def memory_used(device: torch.device) -> float:
    """GB at the peak so far: of the GPU, or of this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e9
    try:
        import resource
    except ImportError:  # Windows
        return float("nan")
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9


class Clock:
    """Seconds a part of the step. Off, it costs nothing and does not wait for the GPU."""

    def __init__(self, device: torch.device, on: bool) -> None:
        self.device, self.on, self.seconds = device, on, {}

    @contextlib.contextmanager
    def __call__(self, part: str) -> Iterator[None]:
        began = self._now()
        yield
        self.seconds[part] = self.seconds.get(part, 0.0) + self._now() - began

    def _now(self) -> float:
        if self.on and self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()

    def table(self, steps: int) -> str:
        total = sum(self.seconds.values())
        lines = [f"{part:12}{1000 * s / steps:10.1f} ms {100 * s / total:5.1f} %" for part, s in self.seconds.items()]
        return "\n".join([*lines, f"{'step':12}{1000 * total / steps:10.1f} ms"])
