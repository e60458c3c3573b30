"""What a training step costs: floating point operations and memory by formula, time by the clock.

    python -m speed.cost       memory per GPU of each stage at full size

The formulas are checked in tests/speed/test_cost.py, against torch's own counter and the tensors autograd really keeps.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from checkpoints.presets import count_parameters, preset
from common import arguments
from common.clock import Clock
from common.distributed import Team
from common.errors import run
from model import UniXConfig

# Dense bfloat16 peak of one card, FLOP/s, from the vendor's data sheets.
PEAK_FLOPS = {"H100": 989e12, "H200": 989e12, "A100": 312e12, "L40S": 362e12, "A6000": 155e12, "4090": 165e12}


# ---- floating point operations -----------------------------------------------------------------------------------


def layer_flops(config: UniXConfig, tokens: int, keys: int) -> int:
    """Multiplications and additions of one decoder layer: `tokens` new ones, each of which looks at `keys`."""
    width, hidden = config.hidden_size, config.intermediate_size
    return 2 * tokens * (4 * width**2 + 3 * width * hidden) + 4 * tokens * keys * width


def vit_flops(config: UniXConfig) -> int:
    """Of the ViT and the connector for one image."""
    vit = config.vit
    n = (vit.image_size // vit.patch_size) ** 2
    block = 2 * n * (4 * vit.width**2 + 2 * vit.width * vit.mlp_width) + 4 * n * n * vit.width
    connector = 2 * n * (vit.width * config.hidden_size + config.hidden_size**2)
    return vit.layers * block + 2 * n * 3 * vit.patch_size**2 * vit.width + connector


def velocity_flops(config: UniXConfig, size: int, prompt: int) -> int:
    """One forward pass of the image block for one picture of `size` px after `prompt` cached tokens."""
    latents = (size // 16) ** 2
    block = latents + 2  # BOI and EOI
    time_mlp = 2 * (256 * config.hidden_size + config.hidden_size**2)
    ends = 2 * 2 * latents * config.latent_channels * config.hidden_size
    return config.num_layers * layer_flops(config, block, block + prompt) + time_mlp + ends


def prompt_flops(config: UniXConfig, prompt: int) -> int:
    return config.num_layers * layer_flops(config, prompt, prompt)


def report_flops(config: UniXConfig, text: int, answer: int) -> int:
    """One forward pass of reading for one image: `text` tokens in all, of which `answer` carry a loss."""
    tokens = (config.vit.image_size // config.vit.patch_size) ** 2 + 2 + text
    logits = 2 * answer * config.hidden_size * config.vocab_size
    return vit_flops(config) + config.num_layers * layer_flops(config, tokens, tokens) + logits


def step_flops(config: UniXConfig, stage: str, size: int, prompt: int, answer: int, images: int) -> int:
    """A training step's useful work: forward and backward (twice the forward) of what trains, forward of the frozen
    prompt. Frozen image encoders are left out (their results are kept), and so is what checkpointing computes again.
    """
    if stage == "1":
        return images * 3 * report_flops(config, prompt + answer, answer)
    if stage in ("2", "3"):
        return images * (3 * velocity_flops(config, size, prompt) + prompt_flops(config, prompt))
    return 0  # the autoencoder and the phrases: not what the paper trains


def peak_flops(device: torch.device) -> float | None:
    """The card's dense bfloat16 peak, None where we do not know it."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else ""
    return next((peak for card, peak in PEAK_FLOPS.items() if card in name), None)


def profile(clock: Clock, config: UniXConfig, stage: str, size: int, batch: int, steps: int, team: Team) -> str:
    """train.py --profile: where a step's time goes, and how much of the hardware's arithmetic it uses (a prompt of 32
    tokens, an answer of 96)."""
    flops, peak = step_flops(config, stage, size, 32, 96, batch), peak_flops(team.device)
    rate = flops * steps / sum(clock.seconds.values())
    share = f", {100 * rate / (peak * team.size):.1f} % of the peak" if peak else ""
    return f"{clock.table(steps)}\n{flops / 1e12:.3f} TFLOP a step, {rate / 1e12:.3f} TFLOP/s{share}"


# ---- memory ------------------------------------------------------------------------------------------------------


def layer_activations(config: UniXConfig, tokens: int, sped_up: bool = False) -> int:
    """Bytes that autograd keeps of one decoder layer in bfloat16, for `tokens` tokens, on a GPU or sped up on a CPU.

    Widths kept a token: the layer's input (1), its norm (1), Q, K, V before their norms (3) and as attention takes them
    (3), attention's output in two layouts (2), the residual (1) and its norm (1); a norm keeps its input and a number a
    token. MLP widths: gate and up (2), silu(gate) (1), the product (1); `speed.cpu` computes the last two again.
    """
    mlp_widths = 2 if sped_up else 4
    return 2 * tokens * (12 * config.hidden_size + mlp_widths * config.intermediate_size)


def kept_bytes(function: Callable[[], torch.Tensor], module: nn.Module) -> int:
    """Bytes of the tensors that autograd keeps for the backward pass, each storage once, without the parameters."""
    parameters = {parameter.untyped_storage().data_ptr() for parameter in module.parameters()}
    seen: dict[int, int] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in parameters:
            seen[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        result = function()
    del result
    return sum(seen.values())


def memory_per_gpu(
    config: UniXConfig,
    stage: str,
    micro_batch: int,
    size: int,
    processes: int = 8,
    zero: bool = False,
    checkpointing: bool = False,
    text: int = 192,
) -> dict[str, float]:
    """GB of one GPU in bfloat16 training, part by part. An estimate: allocator waste and CUDA's own GB are not in it.

    text: tokens of question and answer (stage 1) or prompt (2, 3), with a loss on half of them in stage 1.
    """
    counts = count_parameters(config)
    trained = counts["total"] - counts["gen branch"] if stage == "1" else counts["gen branch"]
    frozen = counts["total"] - trained + 84_000_000  # with kl-f16
    repa = 87_000_000 if stage == "2" else 0  # RadDino
    side = config.vit.image_size // config.vit.patch_size
    tokens = side**2 + 2 + text if stage == "1" else (size // 16) ** 2 + 2
    layer = micro_batch * layer_activations(config, tokens)
    kept = 2 * micro_batch * tokens * config.hidden_size  # what checkpointing keeps of a layer: its input
    activations = config.num_layers * (kept if checkpointing else layer) + (layer if checkpointing else 0)
    if stage == "1":
        vit_block = 2 * micro_batch * side**2 * (12 * config.vit.width + 2 * config.vit.mlp_width)
        vit_kept = 2 * micro_batch * side**2 * config.vit.width
        activations += config.vit.layers * (vit_kept if checkpointing else vit_block)
        activations += micro_batch * text // 2 * config.vocab_size * (2 + 4 + 4)  # logits, in float32, their gradient
    else:
        activations += 2 * 2 * config.num_layers * micro_batch * text * config.hidden_size  # the prompt's K and V
    parts = {
        "weights": 4 * trained + 2 * frozen + 4 * repa,
        "bfloat16 copies": 2 * trained // (config.num_layers if checkpointing else 1),
        "gradients": 4 * trained,
        "AdamW": 8 * trained // (processes if zero else 1),
        "activations": activations,
    }
    parts["total"] = sum(parts.values())
    return {part: amount / 1e9 for part, amount in parts.items()}


def main() -> None:
    arguments.Parser(description="Print the memory per GPU of each stage at full size. It takes no flags.").parse_args()
    config = preset("unix")
    print("GB per GPU of the full-size model in bfloat16, 8 GPUs, by formula (speed/cost.py), not measured")
    columns = ["weights", "bfloat16 copies", "gradients", "AdamW", "activations", "total"]
    print(f"{'stage':6}{'px':>5}{'micro':>7}  {'--less-memory':15}" + "".join(f"{name:>17}" for name in columns))
    for stage, size, micro in (("1", 384, 8), ("2", 256, 32), ("3", 512, 8)):
        for zero, checkpointing in ((False, False), (True, False), (False, True), (True, True)):
            parts = memory_per_gpu(config, stage, micro, size, 8, zero, checkpointing)
            less = [["-", "activations"], ["optimizer", "both"]][zero][checkpointing]
            print(f"{stage:6}{size:5}{micro:7}  {less:15}" + "".join(f"{parts[name]:17.1f}" for name in columns))


if __name__ == "__main__":
    run(main)
