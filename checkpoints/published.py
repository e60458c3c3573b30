"""Published weights: a UniX, a Janus-Pro, a ViT that is SigLIP or RadDino, and the autoencoder kl-f16."""

from functools import partial
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer

from checkpoints import configs
from checkpoints.janus import JanusPro, janus_chat, start_from_janus
from checkpoints.layouts import DINOV2, HF_JANUS, JANUS, PUBLISHED, SIGLIP, translate_vae
from checkpoints.plan import empty, filled, load_tensors
from checkpoints.tensors import PICKLES, Tensors, recognise
from common.errors import UserError
from common.files import read_json
from model import UniX
from vae import VAE
from vit import VisionTransformer


def load_published(
    folder: Path, given: dict, device: str | torch.device, dtype: torch.dtype, parity: bool, vae: str | Path | None
) -> tuple[UniX, VAE | None, Tokenizer, list[dict]]:
    """A UniX, or the UniX that starts from a Janus-Pro (with `parity`, Janus-Pro itself, without autoencoder), and its
    history: a published UniX has learnt to draw, and a stage that goes on must not begin with a copy of und again. It
    says what it read. given: the folder's config.json. vae: kl-f16's file; default: the one in the folder vae/."""
    tensors = Tensors(folder)
    layout = recognise(tensors)
    if layout not in (PUBLISHED, JANUS, HF_JANUS):
        raise UserError(f"{tensors.path}: holds {layout.holds}; a weights folder needs a UniX or a Janus-Pro")
    janus = layout is not PUBLISHED
    parity &= janus
    config = configs.unix_config(tensors, layout, given, parity)
    tokenizer = configs.read_tokenizer(folder / "tokenizer.json", config.vocab_size)
    if janus:  # the published UniX was trained with bare numbers, whatever stands at them
        configs.set_special_ids(config, tokenizer, folder / "tokenizer.json")
    configs.check_unix(config, folder / "config.json")
    autoencoder = None if parity else load_vae(vae or find_vae(folder), device, dtype)
    if autoencoder:
        configs.check_latents(config, autoencoder.config, folder)
    model = empty(lambda: (JanusPro if parity else UniX)(config, compute_dtype=dtype), device, dtype)
    if parity:
        model.before, _ = janus_chat(tokenizer, config, "")
    fill = partial(start_from_janus, given=given) if janus else load_tensors
    print(f"{folder}: {layout.holds}: {fill(model, tensors, layout.translate)}")
    history = [] if janus else [{"stage": stage, "by": "the authors"} for stage in "123"]
    return model.eval(), autoencoder, tokenizer, history


def load_vit(folder: str | Path, device: str | torch.device = "cpu") -> VisionTransformer:
    """SigLIP's vision model or a DINOv2, as `transformers` saves them -> the one ViT of this project, float32."""
    tensors = Tensors(folder)
    layout, path = recognise(tensors), tensors.path.parent / "config.json"
    if layout not in (SIGLIP, DINOV2):
        raise UserError(f"{tensors.path}: holds {layout.holds}; a SigLIP or a RadDino is wanted")
    given = read_json(path)
    given = configs.section(given, path, "vision_config") or given  # a whole SigLIP describes its text model as well
    with configs.read_from(tensors, layout.holds):
        config = configs.vit_config(configs.our_shapes(tensors, layout.translate), given, path)
    configs.check_depth(config.layers, given, "ViT", tensors, path)
    preprocessing = read_json(path.with_name("preprocessor_config.json"), absent={})
    mean, std = (0.5307, 0.2583) if layout is DINOV2 else (0.5, 0.5)  # grey values, RadDino's and SigLIP's
    config.mean = float(np.mean(preprocessing.get("image_mean", mean)))
    config.std = float(np.mean(preprocessing.get("image_std", std)))
    configs.check_vit(config, path)
    return filled(lambda: VisionTransformer(config), tensors, layout.translate, device).requires_grad_(False)


def find_vae(folder: Path) -> Path:
    """The one autoencoder in the folder's vae/. Raises UserError if there is none, or more than one."""
    found = [file for file in sorted((folder / "vae").glob("*")) if file.suffix in (".safetensors", *PICKLES)]
    if len(found) != 1:
        mend = "put kl-f16's file there, or name it with python weights.py convert SOURCE FOLDER --vae FILE"
        raise UserError(f"{folder / 'vae'}: {len(found)} autoencoder files in it, one is needed; {mend}")
    return found[0]


def load_vae(path: str | Path, device: str | torch.device = "cpu", dtype: torch.dtype = torch.float32) -> VAE:
    """kl-f16 from .safetensors or .ckpt. Raises UserError for any other file."""
    tensors = Tensors(path)
    return filled(lambda: VAE(configs.vae_config(tensors)), tensors, translate_vae, device, dtype)
