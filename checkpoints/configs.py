"""Sizes of a published model: from the shapes of its tensors, and from its config.json for what no shape tells."""

from __future__ import annotations

from pathlib import Path

from tokenizers import Tokenizer

from checkpoints.layouts import Layout, Translate, translate_vae
from checkpoints.plan import translate_names
from checkpoints.tensors import Tensors
from common.errors import UserError
from model import UniXConfig
from vae import VAEConfig
from vit import ViTConfig


def our_shapes(tensors: Tensors, translate: Translate) -> dict[str, tuple[int, ...]]:
    """Our name -> shape of one of its parts; what cannot be translated is left for the plan to name."""
    places, _, _ = translate_names(tensors, translate)
    return {ours: tensors.shapes[name] for name, (ours, _, _) in places.items()}


def depth(shapes: dict[str, tuple[int, ...]], prefix: str) -> int:
    """How many numbered layers `prefix` has."""
    numbers = [int(name.removeprefix(prefix).split(".")[0]) for name in shapes if name.startswith(prefix)]
    return 1 + max(numbers, default=-1)


def vit_config(shapes: dict[str, tuple[int, ...]], given: dict, prefix: str = "") -> ViTConfig:
    """Sizes from the tensors; heads, which no tensor shows, from the config, else 64 channels each as SigLIP has."""
    width, _, patch, _ = shapes[prefix + "patch_embed.weight"]
    class_token = prefix + "cls_token" in shapes
    side = round((shapes[prefix + "pos_embed"][-2] - class_token) ** 0.5)
    heads = given.get("num_attention_heads") or given.get("params", {}).get("heads") or max(1, width // 64)
    return ViTConfig(
        image_size=side * patch,
        patch_size=patch,
        width=width,
        layers=depth(shapes, prefix + "blocks."),
        heads=heads,
        mlp_width=shapes[prefix + "blocks.0.fc1.weight"][0],
        act="gelu_tanh" if "tanh" in str(given.get("hidden_act")) else "gelu",
        class_token=class_token,
        layer_scale=prefix + "blocks.0.scale1.gamma" in shapes,
    )


def unix_config(tensors: Tensors, layout: Layout, given: dict, parity: bool = False) -> UniXConfig:
    """The config of a published UniX, or of the UniX that starts from Janus-Pro; with `parity`, of Janus-Pro itself."""
    shapes = our_shapes(tensors, layout.translate)
    language = given.get("language_config") or given.get("text_config") or given.get("llm_config") or {}
    try:
        vocab_size, width = shapes["embed_tokens.weight"]
        # Where neither a norm over heads nor the config tells, Llama's 128 channels a head.
        head_dim = shapes.get("layers.0.attn.und.q_norm.weight", (128,))[0]
        config = UniXConfig(
            hidden_size=width,
            intermediate_size=shapes["layers.0.und.mlp.gate_up.weight"][0],
            num_layers=depth(shapes, "layers."),
            num_heads=language.get("num_attention_heads") or max(1, width // head_dim),
            vocab_size=vocab_size,
            context_length=language.get("max_position_embeddings", 16384),
            rms_norm_eps=language.get("rms_norm_eps", 1e-6),
            rope_theta=(language.get("rope_parameters") or language).get("rope_theta", 10000.0),
            latent_channels=shapes.get("vae2llm.weight", (0, 16))[1],
            vit=vit_config(shapes, given.get("vision_config") or given.get("vit_config") or {}, "vit."),
        )
    except (KeyError, ValueError, IndexError) as error:
        raise UserError(f"{tensors.path}: no whole {layout.holds} in it (nothing for {error})") from error
    if "latent_pos_embed.pos_embed" in tensors.shapes:
        config.max_latent_size = round(tensors.shapes["latent_pos_embed.pos_embed"][0] ** 0.5)
    config.repa_layer = min(config.repa_layer, config.num_layers)
    if parity:
        config.causal, config.qk_norm, config.qkv_bias, config.connector_act = True, False, False, "gelu"
        config.vit.mean = config.vit.std = 0.5
    return config


# A special token's names: Janus-Pro's and DeepSeek's, then those of tokenizers we train.
SPECIAL = {
    "bos": ("<｜begin▁of▁sentence｜>", "<|bos|>"),
    "eos": ("<｜end▁of▁sentence｜>", "<|eos|>"),
    "boi": ("<begin_of_image>", "<|boi|>"),
    "eoi": ("<end_of_image>", "<|eoi|>"),
}


def set_special_ids(config: UniXConfig, tokenizer: Tokenizer, path: Path) -> None:
    """By name where the tokenizer knows one, else the published numbers stay."""
    for field_name, names in SPECIAL.items():
        ids = [id_ for id_ in map(tokenizer.token_to_id, names) if id_ is not None]
        if ids:
            setattr(config, field_name, ids[0])
        if getattr(config, field_name) >= config.vocab_size:
            raise UserError(
                f"{path}: has no {names[0]}, and id {getattr(config, field_name)} is beyond the model's"
                f" {config.vocab_size} tokens; is it this model's tokenizer?"
            )


def vae_config(tensors: Tensors) -> VAEConfig:
    """kl-f16's sizes from its tensors."""
    shapes = our_shapes(tensors, translate_vae)
    try:
        ch = shapes["encoder.conv_in.weight"][0]
        levels = depth(shapes, "encoder.down.")
        widths = [shapes[f"encoder.down.{level}.block.0.conv2.weight"][0] for level in range(levels)]
        return VAEConfig(
            ch=ch,
            ch_mult=tuple(width // ch for width in widths),
            num_res_blocks=depth(shapes, "encoder.down.0.block."),
            z_channels=shapes["post_quant_conv.weight"][1],
        )
    except (KeyError, ValueError, IndexError) as error:
        raise UserError(f"{tensors.path}: no whole KL autoencoder in it (nothing for {error})") from error


def read_tokenizer(path: str | Path) -> Tokenizer:
    """Raises UserError if the file is missing or broken."""
    try:
        tokenizer = Tokenizer.from_str(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); a weights folder needs its tokenizer") from error
    except Exception as error:  # `tokenizers` raises bare Exception
        raise UserError(f"{path}: not a tokenizer ({error})") from error
    tokenizer.encode_special_tokens = True
    return tokenizer
