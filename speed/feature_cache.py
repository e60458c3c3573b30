"""Frozen encoders run once an image: their results are kept in memory, up to a limit."""

from collections.abc import Callable

import torch


class FeatureCache:
    """`compute(images)` for each image the first time it comes by, and what it gave from then on.

    Kept on the CPU up to MAX_BYTES; beyond that everything is computed every time. A kept and a computed value are the
    same bits, so a run that goes on elsewhere trains on the same numbers.
    """

    MAX_BYTES = 4 * 2**30

    def __init__(self, compute: Callable[[torch.Tensor], tuple[torch.Tensor, ...]], count: int) -> None:
        """compute: (B, S, S) uint8 -> tensors (B, ...). count: images in the data set."""
        self.compute, self.count = compute, count
        self.known = torch.zeros(count, dtype=torch.bool)
        self.rows: list[torch.Tensor] = []  # one a result, (count, ...)

    @torch.no_grad()
    def __call__(self, index: torch.Tensor, images: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """index: (B,) which images; images: (B, S, S) uint8 -> what `compute` gives for them."""
        where = index.cpu()
        if self.known[where].all():
            return tuple(row[where].to(images.device) for row in self.rows)
        results = self.compute(images)  # of all: a batch with only some new ones is rare
        if self.count * sum(result[0].nbytes for result in results) <= self.MAX_BYTES:
            self.rows = self.rows or [torch.empty(self.count, *r.shape[1:], dtype=r.dtype) for r in results]
            for row, result in zip(self.rows, results, strict=True):
                row[where] = result.cpu()
            self.known[where] = True
        return results
