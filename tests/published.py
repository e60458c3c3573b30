"""Published folders for tests: golden tensors, configs and tokenizers as the originals have them."""

import json

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file

from golden.weights_by_rule import state_dict
from phantoms.dataset import Phantoms
from training.tokenizer import train_tokenizer


def edit(path, change):
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path)


def golden_folder(folder, name, micro, **given):
    """A published folder: the golden tensors, a config.json, a tokenizer, and an autoencoder in vae/."""
    folder.mkdir(parents=True, exist_ok=True)
    save_file(state_dict(name), folder / "model.safetensors")
    if name == "unix_tiny":  # the published special ids are bare numbers up to 100580

        def widen(tensors):
            for end in ("model.embed_tokens.weight", "lm_head.weight"):
                rows = tensors[f"language_model.{end}"]
                tensors[f"language_model.{end}"] = F.pad(rows, (0, 0, 0, 102400 - len(rows)))

        edit(folder / "model.safetensors", widen)
    (folder / "vae").mkdir()
    save_file(state_dict("vae_tiny"), folder / "vae" / "kl-f16.safetensors")
    source = Phantoms(50)
    train_tokenizer([source.text(i)[0] for i in range(50)], 300).save(str(folder / "tokenizer.json"))
    config = {"language_config": {"num_attention_heads": 4}, "vision_config": {"params": {"heads": 4}}} | given
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def as_shards(folder, pickled):
    """model.safetensors -> two shards with an index, as big models are published."""
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    names, stem = sorted(tensors), "pytorch_model" if pickled else "model"
    suffix = "bin" if pickled else "safetensors"
    weight_map = {}
    for i, part in enumerate((names[::2], names[1::2])):  # interleaved: Q and V of a layer in different files
        file = f"{stem}-{i + 1:05}-of-00002.{suffix}"
        held = {name: tensors[name].clone() for name in part}
        torch.save(held, folder / file) if pickled else save_file(held, folder / file)
        weight_map |= dict.fromkeys(part, file)
    (folder / f"{stem}.{suffix}.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
