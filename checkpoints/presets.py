"""The sizes a fresh model may have, its first weights, and how many parameters it has.

python -m checkpoints.presets     the parameters of each size, without allocating anything
"""

import math

import torch
from torch import nn

from model import UniX, UniXConfig, latent_position_table
from vae import VAEConfig
from vit import ViTConfig

ALIKE = {"num_layers": 6, "context_length": 512, "repa_layer": 3, "image_size": 256, "wording": "plain"}
ALIKE |= {"bos": 0, "eos": 1, "boi": 2, "eoi": 3}  # ids of training.tokenizer
SIZES = {
    # The same code at a size a laptop trains. Guidance: docs/results.md, it shows more of its prompts than at 2.
    "tiny": {"hidden_size": 256, "intermediate_size": 704, "num_heads": 4, "vocab_size": 768, "guidance": 3.0, **ALIKE},
    # For a few thousand real films, which two CPU cores train in hours.
    "small": {"hidden_size": 320, "intermediate_size": 896, "num_heads": 5, "vocab_size": 2048, **ALIKE},
    "unix": {},  # the paper's 1.5B model
}
EYES = {
    "tiny": {"image_size": 128, "width": 192, "layers": 4, "heads": 4, "mlp_width": 768},
    "small": {"image_size": 224, "width": 256, "layers": 6, "heads": 4, "mlp_width": 1024},
    "unix": {},
}


def preset(name: str) -> UniXConfig:
    """One of `SIZES`, fresh."""
    return UniXConfig(recipe=name, vit=ViTConfig(**EYES[name]), **SIZES[name])


def vae_preset(name: str) -> VAEConfig:
    """The autoencoder of a preset: kl-f16, or a narrow one that never computes at full resolution, where most of the
    time went: squares of 2 x 2 px are its first channels. In equal time it comes 1.9 dB nearer (docs/speedrun.md)."""
    narrow = {"ch": 32, "ch_mult": (1, 2, 3, 3), "num_res_blocks": 1, "norm_groups": 2, "patch": 2}
    return VAEConfig() if name == "unix" else VAEConfig(**narrow)


def init_weights(model: UniX, generator: torch.Generator) -> None:
    """From scratch: normal(0, 0.02), residual outputs scaled down by depth (GPT-2), zero biases and velocity."""
    for name, parameter in model.named_parameters():
        if parameter.dim() > 1:
            residual_out = name.endswith(("out.weight", "down.weight", "proj.weight", "fc2.weight"))
            depth = model.config.vit.layers if name.startswith("vit.") else model.config.num_layers
            std = 0.02 / math.sqrt(2 * depth) if residual_out and "patch_embed" not in name else 0.02
            nn.init.normal_(parameter, std=std, generator=generator)
        elif name.endswith("bias"):
            nn.init.zeros_(parameter)
    nn.init.zeros_(model.llm2vae.weight)
    # A ViT that must learn to see from little data should not have to learn where its patches lie as well.
    side = model.config.vit.image_size // model.config.vit.patch_size
    table = latent_position_table(side, model.config.vit.width)
    with torch.no_grad():
        model.vit.pos_embed.copy_(table.flatten(0, 1)[None])


def count_parameters(config: UniXConfig) -> dict[str, int]:
    """Parameters per part, without allocating them (torch's meta device)."""
    with torch.device("meta"):
        model = UniX(config)
    parts = {"ViT": "vit.", "connector": "connector.", "embedding": "embed_tokens.", "output layer": "lm_head."}
    counts = {part: sum(p.numel() for n, p in model.named_parameters() if n.startswith(s)) for part, s in parts.items()}
    gen = sum(p.numel() for _, p in model.gen_parameters())
    total = sum(p.numel() for p in model.parameters())
    counts["und layers"] = total - gen - sum(counts.values())
    return counts | {"gen branch": gen, "total": total}


if __name__ == "__main__":
    columns = {name: count_parameters(preset(name)) for name in SIZES}
    print(f"{'parameters':14}" + "".join(f"{name:>16}" for name in columns))
    for part in columns["tiny"]:
        print(f"{part:14}" + "".join(f"{counts[part]:16,}" for counts in columns.values()))
