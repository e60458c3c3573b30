"""Tensors are the same however they are stored."""

import sys
import types

import pytest
import torch
from safetensors.torch import load_file

from published import as_shards
from weights import load_checkpoint


@pytest.mark.parametrize("stored", ["shards", "pickled shards", "bin", "old bin"])
def test_it_does_not_matter_how_tensors_are_stored(janus, stored):
    expected = load_checkpoint(janus).model.state_dict()
    if "shards" in stored:
        as_shards(janus, "pickled" in stored)
    else:
        tensors = load_file(janus / "model.safetensors")
        (janus / "model.safetensors").unlink()
        torch.save(tensors, janus / "pytorch_model.bin", _use_new_zipfile_serialization=stored == "bin")
    state = load_checkpoint(janus).model.state_dict()
    assert all(torch.equal(tensor, state[name]) for name, tensor in expected.items())


def test_kl_f16_from_the_published_ckpt(janus):
    """As latent-diffusion saved it: under state_dict, with the loss, and naming a callback class of Lightning."""
    expected = load_checkpoint(janus).vae.state_dict()
    save_lightning_ckpt(janus / "vae" / "kl-f16d16.ckpt", load_file(janus / "vae" / "kl-f16.safetensors"))
    (janus / "vae" / "kl-f16.safetensors").unlink()
    state = load_checkpoint(janus).vae.state_dict()
    assert all(torch.equal(tensor, state[name]) for name, tensor in expected.items())


def save_lightning_ckpt(path, tensors):
    """Pickle a stand-in for pytorch_lightning's class under its real name, without the package."""
    module = types.ModuleType("pytorch_lightning.callbacks.model_checkpoint")
    module.ModelCheckpoint = type("ModelCheckpoint", (), {"__module__": module.__name__})
    parents = {name: types.ModuleType(name) for name in ("pytorch_lightning", "pytorch_lightning.callbacks")}
    with pytest.MonkeyPatch.context() as patch:
        for name, each in {**parents, module.__name__: module}.items():
            patch.setitem(sys.modules, name, each)
        callbacks = {module.ModelCheckpoint: {"best_model_score": 0.5}}
        torch.save({"epoch": 1, "callbacks": callbacks, "state_dict": tensors}, path)
