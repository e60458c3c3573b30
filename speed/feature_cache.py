"""Frozen encoders run once an image: their results are kept in memory, up to a limit."""

from collections.abc import Callable

import torch


class FeatureCache:
    """`compute(images)` for each image the first time it comes by, and what it gave from then on.

    Kept on the CPU if all fit into MAX_BYTES; else everything is computed every time. What is kept is computed always
    AT_A_TIME images together, so that it is the same bits in a run that goes on elsewhere.
    """

    MAX_BYTES = 4 * 2**30
    AT_A_TIME = 4  # small: with several processes a batch has images that this one has met and images that it has not

    def __init__(self, compute: Callable[[torch.Tensor], tuple[torch.Tensor, ...]], count: int) -> None:
        """compute: (B, S, S) uint8 -> tensors (B, ...). count: images in the data set."""
        self.compute, self.count = compute, count
        self.known = torch.zeros(count, dtype=torch.bool)
        self.rows: list[torch.Tensor] | None = None  # one a result, (count, ...); none if they do not fit

    @torch.no_grad()
    def __call__(self, index: torch.Tensor, images: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """index: (B,) which images; images: (B, S, S) uint8 -> what `compute` gives for them."""
        if self.rows is None:
            one = [result[0] for result in self.compute(images[:1])]
            fits = self.count * sum(result.nbytes for result in one) <= self.MAX_BYTES
            self.rows = [torch.empty(self.count, *result.shape, dtype=result.dtype) for result in one] if fits else []
        if not self.rows:
            return self.compute(images)
        where = index.cpu()
        new = (~self.known[where]).nonzero()[:, 0]
        for first in range(0, len(new), self.AT_A_TIME):
            some = new[torch.arange(first, first + self.AT_A_TIME).clamp(max=len(new) - 1)]
            for row, result in zip(self.rows, self.compute(images[some.to(images.device)]), strict=True):
                row[where[some]] = result.cpu()
            self.known[where[some]] = True
        return tuple(row[where].to(images.device) for row in self.rows)
