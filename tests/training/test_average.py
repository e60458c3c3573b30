"""The moving average of weights against its definition."""

import pytest
import torch
from torch import nn

from training.average import MovingAverage


def test_the_average_is_the_weighted_sum_of_all_weights_so_far():
    generator = torch.Generator().manual_seed(0)
    parameter = nn.Parameter(torch.randn(5, generator=generator))
    seen, shares = [parameter.detach().clone()], [1.0]
    average = MovingAverage({"w": parameter}, decay=0.5)
    for step in range(20):
        with torch.no_grad():
            parameter.copy_(torch.randn(5, generator=generator))
        average.update(step)
        kept = min(0.5, (1 + step) / (10 + step))
        seen, shares = [*seen, parameter.detach().clone()], [*(share * kept for share in shares), 1 - kept]
    assert sum(shares) == pytest.approx(1)
    expected = sum(share * weights for share, weights in zip(shares, seen, strict=True))
    torch.testing.assert_close(average.values["w"], expected)


def test_within_the_block_the_parameters_are_the_average_and_afterwards_what_they_were():
    parameter = nn.Parameter(torch.ones(3))
    average = MovingAverage({"w": parameter}, decay=0.9)
    with torch.no_grad():
        parameter.fill_(2.0)
    with pytest.raises(RuntimeError), average.in_place():
        assert parameter.tolist() == [1.0] * 3 and average.values["w"].tolist() == [2.0] * 3
        raise RuntimeError
    assert parameter.tolist() == [2.0] * 3
