"""What a training step costs by formula: floating point operations, and memory.

    python -m speed.cost       memory per GPU of each stage at full size

tests/speed/test_cost.py checks them against torch's own counter and the tensors that autograd really keeps.
"""

from checkpoints.presets import count_parameters, preset
from common import arguments
from common.clock import Clock
from common.errors import run
from model import UniXConfig


def step_flops(config: UniXConfig, stage: str, size: int, prompt: int, answer: int, images: int) -> int:
    """Floating point operations of a step of stages 1 to 3, to within a few per cent: two for each weight and token
    that it is multiplied with, four for each number of a key that a token looks at (Kaplan et al. 2020, table 1).

    size: px; prompt, answer: tokens. What trains counts three times, for the backward pass is twice the forward. Frozen
    image encoders are left out (their results are kept), and so is what checkpointing computes again.
    """
    weights, vit = count_parameters(config), config.vit

    def decoder(part: str, tokens: int, keys: int) -> int:
        return 2 * weights[part] * tokens + 4 * config.num_layers * tokens * keys * config.hidden_size

    if stage == "1":
        patches = (vit.image_size // vit.patch_size) ** 2
        tokens = patches + 2 + prompt + answer
        eye = 2 * (weights["ViT"] + weights["connector"]) * patches + 4 * vit.layers * patches**2 * vit.width
        return images * 3 * (eye + decoder("und layers", tokens, tokens) + 2 * weights["output layer"] * answer)
    latents = (size // 16) ** 2
    drawing = decoder("gen branch", latents, latents + 2 + prompt)
    return images * (3 * drawing + decoder("und layers", prompt, prompt))


def profile(clock: Clock, config: UniXConfig, stage: str, size: int, batch: int, steps: int) -> str:
    """train.py --profile: where a step's time goes and, in the paper's stages, how much is computed a second (a prompt
    of 32 tokens, an answer of 96)."""
    if stage in ("vae", "vit"):
        return clock.table(steps)
    flops = step_flops(config, stage, size, 32, 96, batch) / 1e12
    rate = flops * steps / sum(clock.seconds.values())
    return f"{clock.table(steps)}\n{flops:.3f} TFLOP a step, {rate:.3f} TFLOP/s"


def layer_activations(config: UniXConfig, tokens: int, rank: int = 0) -> int:
    """Bytes that autograd keeps of one decoder layer in bfloat16, for `tokens` tokens, on a GPU.

    Widths kept a token: the layer's input (1), its norm (1), Q, K, V before their norms (3) and as attention takes them
    (3), attention's output in two layouts (2), the residual (1) and its norm (1); a norm keeps its input and a number a
    token. MLP widths: gate and up (2), silu(gate) (1), the product (1). (`speed.cpu` computes the last two again.) An
    adapter of a rank keeps A x of its four matrices.
    """
    return 2 * tokens * (12 * config.hidden_size + 4 * config.intermediate_size + 4 * rank)


def memory_per_gpu(
    config: UniXConfig,
    stage: str,
    micro_batch: int,
    size: int,
    zero: bool = False,
    checkpointing: bool = False,
    rank: int = 0,
) -> dict[str, float]:
    """GB of one of eight GPUs in bfloat16 training, part by part. An estimate: allocator waste and CUDA's own GB are
    not in it. There are 192 tokens of question and answer (stage 1, a loss on half of them) or prompt (2, 3).

    zero: the eight share the optimizer's state. checkpointing: of each layer its input is kept. rank: of an adapter
    that trains alone (lora.py), so that nothing of the ViT is kept.
    """
    counts, vit, text = count_parameters(config), config.vit, 192
    patches = (vit.image_size // vit.patch_size) ** 2
    trained = counts["total"] - counts["gen branch"] if stage == "1" else counts["gen branch"]
    if rank:
        trained = config.num_layers * rank * (8 * config.hidden_size + 3 * config.intermediate_size)
    frozen = counts["total"] - (0 if rank else trained) + 84_000_000  # with kl-f16
    repa = 87_000_000 if stage == "2" else 0  # RadDino
    tokens = patches + 2 + text if stage == "1" else (size // 16) ** 2 + 2
    layer, layer_input = layer_activations(config, tokens, rank), 2 * tokens * config.hidden_size
    activations = layer + config.num_layers * layer_input if checkpointing else config.num_layers * layer
    if stage == "1":
        block = 1 if checkpointing else 12 + 2 * vit.mlp_width / vit.width  # widths a patch
        activations += 0 if rank else 2 * vit.layers * patches * block * vit.width
        activations += text // 2 * config.vocab_size * (2 + 4 + 4)  # logits, in float32, their gradient
    else:
        activations += 2 * 2 * config.num_layers * text * config.hidden_size  # the prompt's K and V
    parts = {
        "weights": 4 * trained + 2 * frozen + 4 * repa,
        "bfloat16 copies": 2 * trained // (config.num_layers if checkpointing else 1),
        "gradients": 4 * trained,
        "AdamW": 8 * trained // (8 if zero else 1),
        "activations": micro_batch * activations,
    }
    return {part: amount / 1e9 for part, amount in parts.items()} | {"total": sum(parts.values()) / 1e9}


def main() -> None:
    arguments.Parser(description="Print the memory per GPU of each stage at full size. It takes no flags.").parse_args()
    print("GB per GPU of the full-size model in bfloat16, by formula (speed/cost.py), not measured")
    whole, adapter = ("-", "optimizer", "activations", "both"), ("-", "activations")
    rows = [("1", 384, 8, 0, whole), ("2", 256, 32, 0, whole), ("3", 512, 8, 0, whole)]
    for stage, size, micro, rank, ways in [*rows, ("1", 384, 8, 16, adapter), ("3", 512, 4, 16, adapter)]:
        for less in ways:
            saved = less in ("optimizer", "both"), less in ("activations", "both")
            parts = memory_per_gpu(preset("unix"), stage, micro, size, *saved, rank)
            amounts = ", ".join(f"{part} {amount:.1f}" for part, amount in parts.items())
            gpus = f"one GPU, --lora {rank}" if rank else "eight GPUs"
            print(f"stage {stage}, {size} px, micro-batch {micro}, {gpus}, --less-memory {less}: {amounts}")


if __name__ == "__main__":
    run(main)
