"""Random weights under the published names: a UniX or a Janus-Pro of a few thousand numbers, for lesson 7.

The published files hold the same names with larger shapes. Nobody needs to download them to see how they are read.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import save_file

from phantoms.dataset import Phantoms
from training.tokenizer import train_tokenizer
from vae import VAE, VAEConfig

LAYERS, WIDTH, MLP_WIDTH, HEADS = 2, 64, 96, 4
VIT_LAYERS, VIT_WIDTH, VIT_SIDE = 2, 32, 4  # 4 x 4 patches of 16 px: films of 64 px
LATENT_SIDE = 8  # of the table of latent positions: pictures of up to 128 px
CHANNELS = 16  # of a latent
# The published UniX names its special tokens by number, 100580 at most. So even the smallest one has a row for each.
VOCABULARY = {"unix": 100_581, "janus": 400}
Shapes = dict[str, tuple[int, ...]]


def shapes(kind: str) -> Shapes:
    """Published name -> shape. kind: "unix" or "janus" (Janus-Pro in its original layout)."""
    vocabulary = VOCABULARY[kind]
    found = {f"language_model.{end}.weight": (vocabulary, WIDTH) for end in ("model.embed_tokens", "lm_head")}
    found["language_model.model.norm.weight"] = (WIDTH,)
    for layer in range(LAYERS):
        found |= {f"language_model.model.layers.{layer}.{name}": s for name, s in decoder_layer(kind).items()}
    if kind == "unix":
        branches = {name: s for name, s in found.items() if ".layers." in name or name.endswith("model.norm.weight")}
        found |= {gen_twin(name): s for name, s in branches.items()}
        found |= linear("vae2llm", WIDTH, CHANNELS) | linear("llm2vae", CHANNELS, WIDTH)
        found |= linear("time_embedder.mlp.0", WIDTH, 256) | linear("time_embedder.mlp.2", WIDTH, WIDTH)
        found["latent_pos_embed.pos_embed"] = (LATENT_SIDE**2, WIDTH)
        found |= connector("connector") | vision_tower("vit_model")
    else:
        found |= connector("aligner") | vision_tower("vision_model")
        found |= linear("gen_head.output_mlp_projector", WIDTH, WIDTH)  # of Janus's own image tokens
        found["gen_embed.weight"] = (32, 8)
    return found


def decoder_layer(kind: str) -> Shapes:
    """One layer of the und branch. Janus-Pro has no biases and no norm of queries and keys."""
    found = {f"self_attn.{name}_proj.weight": (WIDTH, WIDTH) for name in "qkvo"}
    if kind == "unix":
        found |= {f"self_attn.{name}_proj.bias": (WIDTH,) for name in "qkv"}
        found |= {f"self_attn.{name}_norm.weight": (WIDTH // HEADS,) for name in "qk"}
    found |= {f"mlp.{name}_proj.weight": (MLP_WIDTH, WIDTH) for name in ("gate", "up")}
    found["mlp.down_proj.weight"] = (WIDTH, MLP_WIDTH)
    return found | {f"{name}_layernorm.weight": (WIDTH,) for name in ("input", "post_attention")}


def gen_twin(name: str) -> str:
    """The gen branch's name beside the und branch's: `_moe_gen` behind the part that is doubled."""
    stem, dot, kind = name.rpartition(".")
    if ".mlp." in stem:
        return name.replace(".mlp.", ".mlp_moe_gen.")
    return f"{stem}_moe_gen{dot}{kind}"


def vision_tower(prefix: str) -> Shapes:
    """A ViT with timm's names, and of its pooling head, which UniX does not use, one tensor."""
    width, found = VIT_WIDTH, {"pos_embed": (1, VIT_SIDE**2, VIT_WIDTH), "attn_pool.latent": (1, 1, VIT_WIDTH)}
    found |= {"patch_embed.proj.weight": (width, 3, 16, 16), "patch_embed.proj.bias": (width,)} | norm("norm", width)
    for block in (f"blocks.{n}" for n in range(VIT_LAYERS)):
        found |= norm(f"{block}.norm1", width) | norm(f"{block}.norm2", width)
        found |= linear(f"{block}.attn.qkv", 3 * width, width) | linear(f"{block}.attn.proj", width, width)
        found |= linear(f"{block}.mlp.fc1", 4 * width, width) | linear(f"{block}.mlp.fc2", width, 4 * width)
    return {f"{prefix}.vision_tower.{name}": s for name, s in found.items()}


def connector(prefix: str) -> Shapes:
    return linear(f"{prefix}.layers.0", WIDTH, VIT_WIDTH) | linear(f"{prefix}.layers.2", WIDTH, WIDTH)


def linear(name: str, outputs: int, inputs: int) -> Shapes:
    return {f"{name}.weight": (outputs, inputs), f"{name}.bias": (outputs,)}


def norm(name: str, width: int) -> Shapes:
    return {f"{name}.weight": (width,), f"{name}.bias": (width,)}


def write(
    folder: Path, kind: str, seed: int = 0, change: Callable[[dict[str, torch.Tensor]], None] = lambda tensors: None
) -> Path:
    """A published folder of random weights: model.safetensors, config.json, tokenizer.json, and vae/. Returns it.

    change: may damage the tensors before they are written.
    """
    generator = torch.Generator().manual_seed(seed)
    tensors = {}
    for name, shape in sorted(shapes(kind).items()):
        noise = torch.randn(shape, generator=generator)
        scale = shape[-1] ** -0.5 if len(shape) > 1 else 0.1
        tensors[name] = scale * noise + float("norm" in name and name.endswith("weight"))
    change(tensors)
    (folder / "vae").mkdir(parents=True, exist_ok=True)
    save_file(tensors, folder / "model.safetensors")
    heads = {"language_config": {"num_attention_heads": HEADS}, "vision_config": {"params": {"heads": 4}}}
    (folder / "config.json").write_text(json.dumps(heads), encoding="utf-8")
    reports = Phantoms(50)
    train_tokenizer([reports.text(i)[0] for i in range(50)], 300).save(str(folder / "tokenizer.json"))
    with torch.random.fork_rng():  # kl-f16's names are the names of our own autoencoder
        torch.manual_seed(seed)
        save_file(VAE(VAEConfig(ch=32, num_res_blocks=1)).state_dict(), folder / "vae" / "kl-f16.safetensors")
    return folder
