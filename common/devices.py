"""Which device and dtype a command computes with."""

import timeit

import torch

from common.errors import UserError


def pick_device(name: str | None) -> torch.device:
    """`--device`; without it cuda if there is one, else cpu. Raises UserError if torch cannot compute there."""
    if name is None:
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
        if device.type == "cpu" and device.index:  # torch takes any number and computes on the one there is
            raise ValueError(name)
        torch.ones(1, device=device).sum().item()  # "meta" holds no numbers, and some backends only exist by name
    except Exception as error:  # each backend raises its own kind, and says much
        raise UserError(f"--device {name or repr(name)}: not available here; cpu always is") from error
    return device


def dtype_name(dtype: torch.dtype) -> str:
    """torch.bfloat16 -> "bfloat16"."""
    return str(dtype).removeprefix("torch.")


def pick_dtype(name: str | None, device: torch.device) -> torch.dtype:
    """`--dtype`; without it bfloat16 on cuda, else float32; "fast" is bfloat16 on every device that multiplies it fast.

    A processor without instructions for bfloat16 takes ten times as long as in float32, or longer. One that has them in
    AVX-512 without AMX may take twice as long, so its clock is asked.
    """
    on_cuda = device.type == "cuda"
    if name == "fast":
        has_instructions = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
        on_cpu = device.type == "cpu" and has_instructions and product_seconds(torch.bfloat16) < product_seconds()
        name = "bfloat16" if on_cuda or on_cpu else "float32"
    return getattr(torch, name or ("bfloat16" if on_cuda else "float32"))


def product_seconds(dtype: torch.dtype = torch.float32) -> float:
    """What this processor takes for the product of two matrices of 256 x 256, the best of 50."""
    matrix = torch.ones(256, 256, dtype=dtype)
    return min(timeit.repeat(lambda: matrix @ matrix, number=1, repeat=50))


def pictures_at_a_time(device: torch.device) -> int:
    """Of a batch; larger ones draw no faster."""
    return 4 if device.type == "cpu" else 16
