"""Muon (Jordan et al. 2024): a matrix moves along its momentum made orthogonal, so that it moves in every direction
alike. The tiny recipe alone takes it: half the steps to the same score (docs/speedrun.md). The paper has AdamW.
"""

import torch
from torch import nn

from common.distributed import Team

MOMENTUM = 0.95
ITERATIONS = 5
QUINTIC = (3.4445, -4.7750, 2.0315)  # of the iteration; Jordan chose them for speed, and they end near 1, not at it


class Muon(torch.optim.AdamW):
    """AdamW for all but `matrices`. Their steps are 0.2 sqrt(max(rows, columns)) long for each direction, as long as
    AdamW's are (Liu et al. 2025, arXiv:2502.16982, section 2.2), so that one learning rate serves both. Each process
    makes its share of the steps orthogonal."""

    def __init__(
        self,
        parameters: list[nn.Parameter],
        matrices: list[nn.Parameter],
        dtype: torch.dtype,
        team: Team,
        **adamw: object,
    ) -> None:
        """dtype: to make orthogonal in; bfloat16 is enough."""
        super().__init__(parameters, **adamw)
        self.dtype, self.matrices, self.team = dtype, matrices, team

    @torch.no_grad()
    def step(self) -> None:
        gradients = {matrix: matrix.grad for matrix in self.matrices if matrix.grad is not None}
        for matrix in gradients:
            matrix.grad = None  # AdamW passes it over
            if matrix not in self.state:  # AdamW asks for "step" when a state is loaded
                self.state[matrix] = {"step": torch.tensor(0.0), "exp_avg": torch.zeros_like(matrix)}
        super().step()
        for shape in dict.fromkeys(matrix.shape for matrix in gradients):  # those of a shape together
            same = [matrix for matrix in gradients if matrix.shape == shape]
            given = [gradients[matrix] for matrix in same]
            momenta = [self.state[matrix]["exp_avg"] for matrix in same]
            torch._foreach_lerp_(momenta, given, 1 - MOMENTUM)
            ahead = torch._foreach_lerp(given, momenta, MOMENTUM)  # Nesterov's
            count = -(-len(same) // self.team.size)  # for each process; the last of them perhaps again
            mine = [ahead[min(self.team.rank * count + k, len(same) - 1)] for k in range(count)]
            steps = orthogonal(torch.stack(mine).flatten(2).to(self.dtype))  # a convolution is (out, in * 3 * 3)
            steps = self.team.gathered(steps)[: len(same)]
            length = self.param_groups[0]["lr"] * 0.2 * max(steps.shape[1:]) ** 0.5
            torch._foreach_add_(same, [step.view(shape) for step in steps.float()], alpha=-length)


def matrices_of_layers(trained: dict[str, nn.Parameter]) -> list[nn.Parameter]:
    """The weights of layers among what trains, the autoencoder's convolutions too. What comes before the first layer or
    after the last stays AdamW's, and so does an adapter, whose two make one matrix."""
    places = ("/layers.", ".blocks.", ".mid.", ".down.", ".up.")
    inside = {name: p for name, p in trained.items() if any(place in name for place in places)}
    return [parameter for name, parameter in inside.items() if parameter.dim() > 1 and ".lora_" not in name]


def orthogonal(x: torch.Tensor) -> torch.Tensor:
    """(N, rows, columns) -> matrices of the same singular vectors, whose singular values are all between 0.6 and 1.3
    but for the very smallest: a polynomial of x x^T that pushes values towards 1, applied `ITERATIONS` times."""
    tall = x.shape[1] > x.shape[2]
    x = (x.mT if tall else x).contiguous()
    x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)
    a, b, c = QUINTIC
    for _ in range(ITERATIONS):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.mT if tall else x
