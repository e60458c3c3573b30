"""What the processes of a team agree on."""

import pytest
import torch

from common.distributed import Team

CPU = torch.device("cpu")


@pytest.mark.parametrize("others", ["bfloat16", "float32"])
@pytest.mark.parametrize("mine", ["bfloat16", "float32"])
def test_processes_whose_clocks_differ_compute_in_one_dtype(monkeypatch, mine, others):
    monkeypatch.setattr(Team, "sum", lambda team, values: [values[0] + 2 * (others == "float32")])
    both_fast = mine == others == "bfloat16"
    assert Team(1, 3, CPU).agreed(getattr(torch, mine)) == (torch.bfloat16 if both_fast else torch.float32)


def test_alone_a_process_keeps_its_dtype():
    for dtype in (torch.bfloat16, torch.float32):
        assert Team(0, 1, CPU).agreed(dtype) == dtype
