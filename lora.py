"""Low-rank adapters (LoRA, Hu et al. 2021): a small file beside the weights that changes what they do.

A Linear of a frozen branch computes W x + b; with an adapter of rank r it computes W x + b + scale B A x, where only
A (r, in) and B (out, r) train. B begins at zero, so that the model begins as it was. `put_on` adds them to a model,
`save_adapter` and `load_adapter` are the file, `merge` makes W + scale B A of them, for good.

    python train.py --stage 3 --init weights/UniX --data SRC --lora 16    out/stage-3/checkpoint/adapter.safetensors
    python sample.py "..." --weights weights/UniX --adapter out/stage-3

Names in the file are those of PEFT, which reads it as adapter_model.safetensors (tests/test_lora.py).
"""

import hashlib
import json
import math
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import nn

from checkpoints.folders import ADAPTER, find_checkpoint
from checkpoints.tensors import open_safetensors
from common.errors import UserError
from layers import Linear
from model import UniX

PREFIX = "base_model.model."  # of PEFT's names


def adapted(model: UniX, branch: str) -> dict[str, Linear]:
    """The Linears that an adapter changes: attention and MLP of one branch, "und" or "gen", in every layer."""
    modules = model.layers.named_modules(prefix="layers")
    linears = {name: layer for name, layer in modules if isinstance(layer, Linear) and ".lora_" not in name}
    return {name: layer for name, layer in linears.items() if f".{branch}." in name}


def put_on(model: UniX, branch: str, rank: int, scale: float = 1.0) -> dict[str, nn.Parameter]:
    """Give each Linear of `adapted` its A and B, and return them by name; all that was there stands still from now on.

    A is drawn from torch's global generator. Raises UserError if the model has an adapter already.
    """
    if model.adapter:
        raise UserError("these weights carry an adapter already; merge it first (weights.py merge)")
    trained = {}
    for name, layer in adapted(model, branch).items():
        like = {"device": layer.weight.device, "dtype": torch.float32}
        layer.lora_A = Linear(layer.in_features, rank, bias=False, **like)
        layer.lora_B = Linear(rank, layer.out_features, bias=False, **like)
        nn.init.kaiming_uniform_(layer.lora_A.weight, a=math.sqrt(5))
        nn.init.zeros_(layer.lora_B.weight)
        layer.register_forward_hook(lambda layer, given, y: y + scale * layer.lora_B(layer.lora_A(given[0])))
        trained |= {f"{name}.{matrix}.weight": getattr(layer, matrix).weight for matrix in ("lora_A", "lora_B")}
    belongs = {"weights": fingerprint(model, branch), "image_size": model.config.image_size}
    model.adapter = {"branch": branch, "rank": rank, "scale": scale, **belongs}
    return trained


def have_on(model: UniX, branch: str, rank: int) -> None:
    """`put_on`, unless the model carries just such an adapter: the one to go on training."""
    if (model.adapter.get("branch"), model.adapter.get("rank")) != (branch, rank):
        put_on(model, branch, rank)


def fingerprint(model: UniX, branch: str) -> str:
    """12 hex digits of the weights that an adapter changes, the same in float32 and in bfloat16."""
    digest = hashlib.sha256()
    for layer in adapted(model, branch).values():
        digest.update(layer.weight[:4].detach().cpu().bfloat16().view(torch.int16).numpy().tobytes())
    return digest.hexdigest()[:12]


def save_adapter(model: UniX, file: Path) -> None:
    """Write what `put_on` added, in float32, with the rank, the scale and the weights that it belongs to."""
    tensors = {f"{PREFIX}{name}": t.cpu().contiguous() for name, t in model.state_dict().items() if ".lora_" in name}
    save_file(tensors, file, {"adapter": json.dumps(model.adapter)})  # one entry: their order is random


def file_of(path: Path) -> Path:
    """An adapter's file, or the newest in a run's folder."""
    return (find_checkpoint(path) or path) / ADAPTER if path.is_dir() else path


def load_adapter(model: UniX, path: Path) -> None:
    """Put the adapter of `file_of` on a model.

    Raises UserError if the file is damaged or no adapter, or belongs to other weights.
    """
    file = file_of(path)
    if not file.is_file():
        raise UserError(f"--adapter {file}: no such file")
    try:
        opened = open_safetensors(file)
        about = json.loads(opened.metadata()["adapter"])
        branch, rank, scale, weights = about["branch"], int(about["rank"]), float(about["scale"]), about["weights"]
    except (UserError, KeyError, TypeError, ValueError, RecursionError) as error:
        raise UserError(f"--adapter {file}: not an adapter that train.py --lora wrote ({error})") from error
    if weights != fingerprint(model, branch):
        raise UserError(f"--adapter {file}: was trained on other weights (or this is float16); name those by --weights")
    shapes = {}
    for name, layer in adapted(model, branch).items():
        shapes[f"{PREFIX}{name}.lora_A.weight"] = (rank, layer.in_features)
        shapes[f"{PREFIX}{name}.lora_B.weight"] = (layer.out_features, rank)
    if shapes != {name: tuple(opened.get_slice(name).get_shape()) for name in opened.keys()}:  # noqa: SIM118
        raise UserError(f"--adapter {file}: its tensors are not those of rank {rank}; it is damaged")
    model.config.image_size = about.get("image_size", model.config.image_size)  # what it was trained at
    with torch.no_grad():
        for name, parameter in put_on(model, branch, rank, scale).items():
            parameter.requires_grad_(False).copy_(opened.get_tensor(f"{PREFIX}{name}"))


@torch.no_grad()
def merge(model: UniX) -> None:
    """Make W + scale B A of every adapted weight, in float32, and take the adapter off."""
    for layer in adapted(model, model.adapter["branch"]).values():
        change = model.adapter["scale"] * layer.lora_B.weight.float() @ layer.lora_A.weight.float()
        layer.weight.copy_(layer.weight.float() + change)
        del layer.lora_A, layer.lora_B
        layer._forward_hooks.clear()
    model.adapter = {}
