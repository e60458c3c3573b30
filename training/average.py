"""The exponential moving average of a run's weights (Polyak & Juditsky 1992)."""

import contextlib
from collections.abc import Iterator

import torch
from torch import nn


class MovingAverage:
    """An average of the trained parameters, beside them and in their dtype. Every process computes the same one.

    A step keeps min(decay, (1 + step) / (10 + step)) of the average, so that it soon forgets where the run began.
    """

    def __init__(self, trained: dict[str, nn.Parameter], decay: float) -> None:
        self.trained, self.decay = trained, decay
        self.values = {name: parameter.detach().clone() for name, parameter in trained.items()}

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Take in the weights after `step`, which counts from 0."""
        decay = min(self.decay, (1 + step) / (10 + step))
        torch._foreach_lerp_([*self.values.values()], [p.detach() for p in self.trained.values()], 1 - decay)

    @contextlib.contextmanager
    def in_place(self) -> Iterator[None]:
        """Within the block the parameters hold the average, and `values` what they were, to show or save it."""
        self.swap()
        try:
            yield
        finally:
            self.swap()

    def swap(self) -> None:
        for name, parameter in self.trained.items():
            parameter.data, self.values[name] = self.values[name], parameter.data
