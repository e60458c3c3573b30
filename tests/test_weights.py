"""A checkpoint is loaded whole or refused by name."""

import json
import shutil
from copy import deepcopy

import pytest
import torch
from safetensors.torch import load_file, save_file

from errors import UserError
from golden.weights_by_rule import state_dict
from weights import load_checkpoint, load_tensors, save_checkpoint, translate_unix


def test_a_saved_checkpoint_loads_bit_for_bit(micro, micro_folder):
    loaded = load_checkpoint(micro_folder)
    for ours, theirs in ((micro.model, loaded.model), (micro.vae, loaded.vae)):
        state = theirs.state_dict()
        assert all(torch.equal(tensor, state[name]) for name, tensor in ours.state_dict().items())
    assert torch.equal(loaded.model.latent_positions, micro.model.latent_positions)
    assert loaded.model.config == micro.model.config
    assert loaded.vae.config.scale_factor == micro.vae.config.scale_factor
    assert loaded.encode("Small left pleural effusion.") == micro.encode("Small left pleural effusion.")


def test_bfloat16_halves_the_file_and_loads_as_float32(micro, micro_folder, tmp_path):
    save_checkpoint(tmp_path / "half", micro, torch.bfloat16)
    sizes = [(folder / "model.safetensors").stat().st_size for folder in (micro_folder, tmp_path / "half")]
    assert sizes[1] < 0.55 * sizes[0]
    assert load_checkpoint(tmp_path / "half").model.lm_head.weight.dtype == torch.float32


def test_saving_replaces_a_checkpoint_and_leaves_nothing_else(micro, tmp_path):
    for _ in range(2):
        save_checkpoint(tmp_path / "run", micro)
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


@pytest.fixture
def folder(micro_folder, tmp_path):
    return shutil.copytree(micro_folder, tmp_path / "weights")


def edit(path, change):
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda t: t.pop("llm2vae.bias"), "1 tensors missing (llm2vae.bias)"),
        (lambda t: t.update(extra=torch.zeros(1)), "1 tensors unknown (extra)"),
        (lambda t: t.update({"llm2vae.bias": torch.zeros(3)}), "wrong shape (llm2vae.bias [3], expected [16])"),
    ],
)
def test_a_tensor_missing_unknown_or_misshapen_is_named(folder, change, words):
    edit(folder / "model.safetensors", change)
    with pytest.raises(UserError) as error:
        load_checkpoint(folder)
    assert words in str(error.value) and "model.safetensors" in str(error.value)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "vae.safetensors", "tokenizer.json"])
@pytest.mark.parametrize("damage", ["missing", "truncated", "empty"])
def test_a_damaged_file_is_named(folder, name, damage):
    path = folder / name
    if damage == "missing":
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[: 0 if damage == "empty" else path.stat().st_size // 2])
    with pytest.raises(UserError, match=name.replace(".", r"\.")):
        load_checkpoint(folder)


def test_a_config_of_another_size_is_refused(folder):
    config = json.loads((folder / "config.json").read_text())
    config["model"]["hidden_size"] = 128
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match="of a wrong shape"):
        load_checkpoint(folder)


def test_published_names_translate_one_to_one():
    places = [translate_unix(name) for name in state_dict("unix_tiny")]
    used = [place for place in places if place is not None]
    assert len(used) == len(set(used))
    with pytest.raises(KeyError):
        translate_unix("language_model.model.layers.0.self_attn.rotary.weight")


def test_half_a_fused_tensor_counts_as_missing(micro, tmp_path):
    """gate_proj without up_proj fills half of gate_up; a layer half loaded must not pass."""
    layer = deepcopy(micro.model.layers[0])
    tensors = {name: tensor for name, tensor in layer.state_dict().items() if name != "und.mlp.gate_up.weight"}
    save_file({**tensors, "gate_proj": torch.zeros(96, 64)}, tmp_path / "half.safetensors")

    def translate(name):
        return ("und.mlp.gate_up.weight", 0, 2) if name == "gate_proj" else (name, 0, 1)

    with pytest.raises(UserError, match=r"1 tensors missing \(und\.mlp\.gate_up\.weight\)"):
        load_tensors(layer, tmp_path / "half.safetensors", translate)
