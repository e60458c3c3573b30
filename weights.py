"""Checkpoints: our own folder, and foreign files whose names are translated to ours. Strict, streamed, no pickle.

A folder of ours holds config.json, model.safetensors, vae.safetensors and tokenizer.json. The config travels with the
weights. It is written to a temporary folder and renamed, so a reader sees a whole checkpoint or none.

Every load accounts for every tensor: one that is neither mapped nor on the skip list, one that is missing, or one of a
wrong shape is an error that names it. Nothing is ever loaded by halves in silence.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from tokenizers import Tokenizer
from torch import nn

from errors import UserError, run
from model import UniX, UniXConfig
from vae import VAE, VAEConfig

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}

# (our name, part, parts): the tensor fills the part-th of `parts` equal slices along the first axis. None: skip it.
Place = tuple[str, int, int]
CHECKPOINT = "checkpoint"  # inside the folder of a training run


def translate_ours(name: str) -> Place | None:
    return name, 0, 1


def translate_unix(name: str) -> Place | None:
    """A tensor's name in the published UniX checkpoint (Janus-Pro's names, gen twins marked `_moe_gen`) -> ours.

    Raises KeyError for a name that is neither known nor to be skipped.
    """
    # A pooling head that nothing uses, and two fixed tables that are computed.
    if ".attn_pool." in name or name in ("latent_pos_embed.pos_embed", "vit_pos_embed.pos_embed"):
        return None
    branch = "gen" if "_moe_gen" in name else "und"
    plain = name.replace("_moe_gen", "")
    if plain == "language_model.model.norm.weight":
        return f"norm.{branch}.weight", 0, 1
    if name in ("language_model.model.embed_tokens.weight", "language_model.lm_head.weight"):
        return name.removeprefix("language_model.").removeprefix("model."), 0, 1
    if match := re.fullmatch(r"language_model\.model\.layers\.(\d+)\.(.+)\.(weight|bias)", plain):
        layer, part, kind = match.groups()
        rules = {
            "self_attn.q_proj": (f"attn.{branch}.qkv", 0, 3),
            "self_attn.k_proj": (f"attn.{branch}.qkv", 1, 3),
            "self_attn.v_proj": (f"attn.{branch}.qkv", 2, 3),
            "self_attn.o_proj": (f"attn.{branch}.out", 0, 1),
            "self_attn.q_norm": (f"attn.{branch}.q_norm", 0, 1),
            "self_attn.k_norm": (f"attn.{branch}.k_norm", 0, 1),
            "mlp.gate_proj": (f"{branch}.mlp.gate_up", 0, 2),
            "mlp.up_proj": (f"{branch}.mlp.gate_up", 1, 2),
            "mlp.down_proj": (f"{branch}.mlp.down", 0, 1),
            "input_layernorm": (f"{branch}.attn_norm", 0, 1),
            "post_attention_layernorm": (f"{branch}.mlp_norm", 0, 1),
        }
        ours, part, parts = rules[part]
        return f"layers.{layer}.{ours}.{kind}", part, parts
    if name.startswith("vit_model.vision_tower."):
        ours = name.removeprefix("vit_model.vision_tower.").replace("patch_embed.proj", "patch_embed")
        return "vit." + re.sub(r"(blocks\.\d+)\.(?:attn|mlp)\.", r"\1.", ours), 0, 1
    if name.startswith("connector."):
        return name.replace("connector.fc1", "connector.layers.0").replace("connector.fc2", "connector.layers.2"), 0, 1
    if name.startswith(("time_embedder.", "vae2llm.", "llm2vae.")):
        return name, 0, 1
    raise KeyError(name)


def translate_vae(name: str) -> Place | None:
    """kl-f16's names are ours; its training loss came along and is skipped."""
    return None if name.startswith("loss.") else (name, 0, 1)


def _listed(names: list[str]) -> str:
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")


@torch.no_grad()
def load_tensors(module: nn.Module, path: str | Path, translate: Callable[[str], Place | None]) -> dict[str, int]:
    """Fill `module` from a .safetensors file, one tensor at a time, in the module's own dtype and on its own device.

    Returns how many of the file's tensors were "read" and "skipped". Raises UserError naming the file and the first
    tensors concerned; the module must then not be used.
    """
    targets = module.state_dict()
    empty = {name: None for name in targets}  # name -> slices still to be filled
    counts = {"read": 0, "skipped": 0}
    unknown, misshapen = [], []
    try:
        with safe_open(path, framework="pt") as file:
            for name in file.keys():  # noqa: SIM118 (not a dict)
                try:
                    place = translate(name)
                except KeyError:
                    unknown.append(name)
                    continue
                if place is None:
                    counts["skipped"] += 1
                    continue
                ours, part, parts = place
                if ours not in targets:
                    unknown.append(name)
                    continue
                target = targets[ours].chunk(parts)[part]
                shape = file.get_slice(name).get_shape()
                if list(target.shape) != list(shape):
                    misshapen.append(f"{name} {list(shape)}, expected {list(target.shape)}")
                    continue
                target.copy_(file.get_tensor(name))
                empty[ours] = (empty.get(ours) or set(range(parts))) - {part}
                if not empty[ours]:
                    del empty[ours]
                counts["read"] += 1
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such file") from error
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path}: not a whole safetensors file ({error}); fetch or make it again") from error
    problems = [
        f"{len(names)} tensors {what} ({_listed(names)})"
        for what, names in (("missing", list(empty)), ("unknown", unknown), ("of a wrong shape", misshapen))
        if names
    ]
    if problems:
        raise UserError(f"{path}: " + "; ".join(problems) + "; is it the right file for this config?")
    return counts


@dataclass
class Checkpoint:
    """Everything a command needs: the two networks, the tokenizer, and how the weights came to be."""

    model: UniX
    vae: VAE
    tokenizer: Tokenizer
    history: list[dict] = field(default_factory=list)  # one entry a finished training stage

    def encode(self, text: str) -> list[int]:
        """Text -> token ids without special tokens (none can be smuggled in by typing its name)."""
        return self.tokenizer.encode(text, add_special_tokens=False).ids

    def decode(self, ids: list[int]) -> str:
        return self.tokenizer.decode(ids).strip()


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


def load_checkpoint(
    folder: str | Path, device: str | torch.device = "cpu", dtype: torch.dtype = torch.float32
) -> Checkpoint:
    """Our folder, or that of a training run -> model and VAE on `device` in `dtype` (weights and compute).

    Raises UserError naming the file if the folder lacks one, or if one is truncated or does not fit the config.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise UserError(f"{folder}: no such weights folder")
    if (folder / CHECKPOINT).is_dir():
        folder = folder / CHECKPOINT
    try:
        config = json.loads((folder / "config.json").read_text())
        model_config = UniXConfig.from_dict(config["model"])
        vae_config = VAEConfig(**config["vae"])
    except FileNotFoundError as error:
        raise UserError(f"{folder / 'config.json'}: missing; is this a weights folder?") from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{folder / 'config.json'}: not a config of ours ({error})") from error
    tokenizer = read_tokenizer(folder / "tokenizer.json")
    with torch.device("meta"):
        model, vae = UniX(model_config, compute_dtype=dtype), VAE(vae_config)
    for module, file in ((model, "model.safetensors"), (vae, "vae.safetensors")):
        materialise(module, device, dtype)
        load_tensors(module, folder / file, translate_ours)
    return Checkpoint(model.eval(), vae.eval(), tokenizer, config.get("history", []))


def materialise(module: nn.Module, device: str | torch.device, dtype: torch.dtype) -> None:
    """Give a module made on the meta device real, uninitialised memory, and compute its fixed tables."""
    module.to(dtype).to_empty(device=device)
    if isinstance(module, UniX):
        module.reset_tables()


def save_checkpoint(folder: str | Path, checkpoint: Checkpoint, dtype: torch.dtype = torch.float32) -> None:
    """Write our folder: all of it to FOLDER.tmp, then renamed over what was there. Raises UserError if it cannot."""
    folder = Path(folder)
    temporary, old = folder.with_name(folder.name + ".tmp"), folder.with_name(folder.name + ".old")
    config = {
        "model": checkpoint.model.config.to_dict(),
        "vae": asdict(checkpoint.vae.config),
        "history": checkpoint.history,
    }
    try:
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        (temporary / "config.json").write_text(json.dumps(config, indent=1) + "\n")
        for module, file in ((checkpoint.model, "model.safetensors"), (checkpoint.vae, "vae.safetensors")):
            tensors = {name: tensor.to("cpu", dtype).contiguous() for name, tensor in module.state_dict().items()}
            save_file(tensors, temporary / file)
        checkpoint.tokenizer.save(str(temporary / "tokenizer.json"))
        shutil.rmtree(old, ignore_errors=True)
        if folder.exists():
            os.rename(folder, old)
        os.rename(temporary, folder)
        shutil.rmtree(old, ignore_errors=True)
    except (OSError, SafetensorError) as error:
        raise UserError(f"{folder}: the checkpoint could not be written ({error})") from error


def load_published(model: UniX, path: str | Path) -> dict[str, int]:
    """Fill `model` from a file in the published UniX layout; returns the counts of `load_tensors`."""
    return load_tensors(model, path, translate_unix)


def load_published_vae(vae: VAE, path: str | Path) -> dict[str, int]:
    """Fill `vae` from a latent-diffusion kl-f16 .safetensors file."""
    return load_tensors(vae, path, translate_vae)


def main() -> None:
    parser = argparse.ArgumentParser(description="Rewrite a weights folder, for example in half the space.")
    parser.add_argument("command", choices=["convert"])
    parser.add_argument("source", help="a weights folder")
    parser.add_argument("destination", help="the folder to write; replaced if it is there")
    parser.add_argument("--dtype", choices=DTYPES, default="bfloat16", help="default: bfloat16")
    args = parser.parse_args()
    checkpoint = load_checkpoint(args.source)
    save_checkpoint(args.destination, checkpoint, DTYPES[args.dtype])
    size = sum(file.stat().st_size for file in Path(args.destination).iterdir())
    print(f"{args.destination}: {size / 1e6:.1f} MB")


if __name__ == "__main__":
    run(main)
