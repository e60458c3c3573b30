"""A plan accounts for every tensor: none comes twice, none by halves."""

from copy import deepcopy

import pytest
import torch
from safetensors.torch import save_file

from checkpoints.layouts import translate_unix
from checkpoints.plan import load_tensors
from common.errors import UserError
from golden.weights_by_rule import state_dict
from model import UniX
from weights import load_checkpoint


def test_a_name_that_two_spellings_share_may_come_once(micro, tmp_path):
    layer = micro.model.connector
    tensors = {f"connector.{name}": tensor for name, tensor in layer.state_dict().items()}
    tensors["connector.fc1.bias"] = torch.zeros(64)
    save_file(tensors, tmp_path / "twice.safetensors")

    def translate(name):
        ours, *rest = translate_unix(name)
        return ours.removeprefix("connector."), *rest

    with pytest.raises(UserError, match="1 tensors given twice"):
        load_tensors(layer, tmp_path / "twice.safetensors", translate)


def test_half_a_fused_tensor_counts_as_missing(micro, tmp_path):
    """gate_proj without up_proj fills half of gate_up; a layer half loaded must not pass."""
    layer = deepcopy(micro.model.layers[0])
    tensors = {name: tensor for name, tensor in layer.state_dict().items() if name != "und.mlp.gate_up.weight"}
    save_file({**tensors, "gate_proj": torch.zeros(96, 64)}, tmp_path / "half.safetensors")

    def translate(name):
        return ("und.mlp.gate_up.weight", 0, 2) if name == "gate_proj" else (name, 0, 1)

    with pytest.raises(UserError, match=r"1 tensors missing \(und\.mlp\.gate_up\.weight\)"):
        load_tensors(layer, tmp_path / "half.safetensors", translate)


def test_a_unix_that_starts_from_janus(janus, capsys):
    checkpoint = load_checkpoint(janus)
    assert "read 63, copied 37, new 8, skipped 21" in capsys.readouterr().out
    model, file = checkpoint.model, state_dict("janus_tiny")
    state = model.state_dict()
    for name, tensor in state.items():
        if ".gen." in name:
            assert torch.equal(tensor, state[name.replace(".gen.", ".und.")]), name
        if name.endswith(("q_norm.weight", "k_norm.weight")):
            assert (tensor == 1).all()
        if "attn" in name and name.endswith("qkv.bias") and name.startswith("layers."):
            assert (tensor == 0).all()
    q, k, v = state["layers.1.attn.und.qkv.weight"].chunk(3)
    for part, tensor in (("q", q), ("k", k), ("v", v)):
        assert torch.equal(tensor, file[f"language_model.model.layers.1.self_attn.{part}_proj.weight"])
    assert (state["llm2vae.weight"] == 0).all() and (state["llm2vae.bias"] == 0).all()
    assert 0.01 < state["vae2llm.weight"].std() < 0.03
    assert type(model) is UniX and model.config.qk_norm and model.config.qkv_bias
    x = torch.randn(1, 16, 4, 4)
    velocity = model.velocity(x, torch.tensor([0.5]), model.read_prompt([[5, 6]]))
    assert (velocity == 0).all()  # the output projection is zero: training starts without a jump
