"""The weights of every golden model, by rule, so that no weight file is needed.

golden/NAME.json holds the model's seed, sizes, token ids and, under `keys`, each tensor's name and shape
as the published checkpoint names it. `state_dict(NAME)` builds the tensors; write them with safetensors and
load the file through the project's own loader. golden/NAME_expected.safetensors holds what the reference
implementation computes with them (float32, CPU).
"""

import json
import math
import zlib
from pathlib import Path

import numpy as np
import torch

HERE = Path(__file__).parent


def _is_norm(key: str) -> bool:
    return key.endswith(".weight") and "norm" in key.split(".")[-2]


def _sincos_table(side: int, dim: int) -> torch.Tensor:
    """2-D sine-cosine positions, row-major over (row, column): the first half of `dim` encodes the column."""
    omega = 1.0 / 10000 ** (np.arange(dim // 4, dtype=np.float64) / (dim / 4))
    grid = np.arange(side, dtype=np.float64)

    def one_axis(pos):
        angle = np.outer(pos, omega)
        return np.concatenate([np.sin(angle), np.cos(angle)], axis=1)

    column, row = np.meshgrid(grid, grid)
    table = np.concatenate([one_axis(column.reshape(-1)), one_axis(row.reshape(-1))], axis=1)
    return torch.from_numpy(table.astype(np.float32))


def tensor_by_rule(seed: int, key: str, shape: list[int]) -> torch.Tensor:
    """r = standard normals of RandomState(crc32("seed:key")) in C order, then, as float32:
    a norm's 1-D weight: 1 + 0.1 r · any other 1-D or 0-D tensor: 0.1 r ·
    2-D and above: gain · r / sqrt(product of shape[1:]), gain 1.0 for 4-D tensors, else 0.5."""
    if key.endswith("pos_embed.pos_embed"):
        return _sincos_table(math.isqrt(shape[0]), shape[1])
    if key == "loss.logvar":
        return torch.zeros(())
    r = np.random.RandomState(zlib.crc32(f"{seed}:{key}".encode())).standard_normal(int(np.prod(shape))).reshape(shape)
    if len(shape) <= 1:
        x = (1 if _is_norm(key) else 0) + 0.1 * r
    else:
        x = r * (1.0 if len(shape) == 4 else 0.5) / np.sqrt(np.prod(shape[1:]))
    return torch.from_numpy(x.astype(np.float32))


def state_dict(name: str) -> dict[str, torch.Tensor]:
    spec = json.loads((HERE / f"{name}.json").read_text())
    return {key: tensor_by_rule(spec["seed"], key, shape) for key, shape in spec["keys"].items()}
