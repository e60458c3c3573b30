"""What other people's tools leave in a checkpoint: wrapped names, scaled positions, a tokenizer that cuts. And runs."""

import json
import random
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

import weights
from checkpoints.inspection import inspect
from checkpoints.published import load_vae, load_vit
from checkpoints.tensors import Tensors
from common.errors import UserError
from common.ownership import own_folder
from inside import run_inside
from published import as_shards
from weights import convert, load_checkpoint, save_checkpoint


@pytest.fixture
def ours(micro_folder, tmp_path):
    folder = shutil.copytree(micro_folder, tmp_path / "ours")
    (folder / "manifest.json").unlink()
    return folder


def change_json(path, change):
    values = json.loads(path.read_text())
    change(values)
    path.write_text(json.dumps(values))


# ---- tokenizers --------------------------------------------------------------------------------------------------

LONG = "Moderate cardiomegaly with small left and large right pleural effusions. " * 4
HABITS = {
    "truncation": {"direction": "Right", "max_length": 8, "strategy": "LongestFirst", "stride": 0},
    "padding": {"strategy": {"Fixed": 32}, "direction": "Right", "pad_to_multiple_of": None, "pad_id": 1}
    | {"pad_type_id": 0, "pad_token": "<|eos|>"},
}


@pytest.mark.parametrize("habits", [["truncation"], ["padding"], ["truncation", "padding"]])
def test_a_tokenizer_neither_cuts_nor_pads_and_is_written_clean(ours, tmp_path, habits):
    plain = load_checkpoint(ours)
    change_json(ours / "tokenizer.json", lambda values: values.update({name: HABITS[name] for name in habits}))
    saved = load_checkpoint(ours)
    for text in (LONG, "Normal."):
        assert saved.encode(text) == plain.encode(text)
    convert(ours, tmp_path / "clean", torch.float32, None)
    written = json.loads((tmp_path / "clean/tokenizer.json").read_text())
    assert written["truncation"] is None and written["padding"] is None


# ---- configs -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("part", ["language_config", None])
@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"hidden_act": "gelu"}, "hidden_act is 'gelu'; our LLM computes silu alone"),
        ({"rope_scaling": {"type": "linear", "factor": 2.0}}, "rope_scaling is {'type': 'linear'"),
        ({"rope_scaling": {"rope_type": "yarn", "factor": 4.0}}, "rope_scaling is {'rope_type': 'yarn'"),
        ({"rope_scaling": {"factor": 2.0}}, "rope_scaling is {'factor': 2.0}; our rotary positions are not scaled"),
        ({"rope_scaling": "linear"}, "rope_scaling is 'linear'; it must be an object"),
        ({"rope_parameters": {"rope_type": "llama3", "rope_theta": 1e4}}, "rope_parameters is {'rope_type': 'llama3'"),
        ({"partial_rotary_factor": 0.5}, "partial_rotary_factor is 0.5; our LLM computes 1.0 alone"),
    ],
)
def test_what_our_decoder_does_not_compute_is_refused_by_name(janus, part, given, words):
    change_json(janus / "config.json", lambda values: (values[part] if part else values).update(given))
    with pytest.raises(UserError) as refused:
        load_checkpoint(janus)
    assert f"config.json: {words}" in str(refused.value) and "\n" not in str(refused.value)


@pytest.mark.parametrize(
    "given",
    [
        {"hidden_act": "silu", "rope_scaling": None},
        {"rope_scaling": {"rope_type": "default"}},
        {"rope_parameters": {"rope_theta": 1e4}},
        {"rope_parameters": {"rope_type": "default", "rope_theta": 1e4}, "hidden_act": None},
    ],
)
def test_what_it_does_compute_is_not(janus, given):
    expected = load_checkpoint(janus).model
    change_json(janus / "config.json", lambda values: values["language_config"].update(given))
    model = load_checkpoint(janus).model
    assert model.config == expected.config


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"hidden_act": "quick_gelu"}, "hidden_act is 'quick_gelu'; our ViT computes gelu, "),
        ({"hidden_act": ["gelu"]}, r"hidden_act is \['gelu'\]"),
        ({"layer_norm_eps": 1e-5}, "layer_norm_eps is 1e-05; our ViT computes 1e-06 alone"),
    ],
)
def test_what_our_vit_does_not_compute_is_refused_by_name(janus, given, words):
    change_json(janus / "config.json", lambda values: values["vision_config"].update(given))
    with pytest.raises(UserError, match=rf"config\.json: {words}"):
        load_checkpoint(janus)


# ---- names -------------------------------------------------------------------------------------------------------


def rename(path, change):
    save_file({change(name): tensor for name, tensor in load_file(path).items()}, path)


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "model.", "_orig_mod.module.", "module._orig_mod."])
@pytest.mark.parametrize("stored", ["safetensors", "shards", "bin"])
def test_what_a_wrapper_put_before_every_name_is_left_out_and_said(janus, prefix, stored, capsys):
    expected = load_checkpoint(janus).model.state_dict()
    rename(janus / "model.safetensors", lambda name: prefix + name)
    rename(janus / "vae/kl-f16.safetensors", lambda name: prefix + name)
    if stored == "shards":
        as_shards(janus, pickled=False)
    elif stored == "bin":
        torch.save({"model": load_file(janus / "model.safetensors"), "step": 3}, janus / "pytorch_model.bin")
        (janus / "model.safetensors").unlink()
    capsys.readouterr()
    state = load_checkpoint(janus).model.state_dict()
    assert all(torch.equal(tensor, state[name]) for name, tensor in expected.items())
    assert capsys.readouterr().err.count(f"every name begins with {prefix}, put there by what wrapped the model") == 2


def test_our_own_files_may_be_wrapped_too(ours, capsys):
    expected = load_checkpoint(ours)
    for file in ("model.safetensors", "vae.safetensors"):
        rename(ours / file, lambda name: "module." + name)
    found = load_checkpoint(ours)
    for a, b in ((expected.model, found.model), (expected.vae, found.vae)):
        assert all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))
    inspect(ours / "model.safetensors")
    said = capsys.readouterr()
    assert "ours: UniX" in said.out and "copied 0, new 0, skipped 0" in said.out and "module." in said.err


def test_a_prefix_before_some_names_is_no_wrapper(janus):
    rename(janus / "model.safetensors", lambda name: name if name.endswith("bias") else "module." + name)
    with pytest.raises(UserError, match=r"model\.safetensors: no whole Janus-Pro"):
        load_checkpoint(janus)


def test_names_that_begin_with_model_by_themselves_stay(tmp_path):
    """transformers' own Janus with tied embeddings: no lm_head, so every name begins with `model.`"""
    from transformers import JanusConfig, JanusForConditionalGeneration

    text = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 1, "num_attention_heads": 1}
    text |= {"vocab_size": 300, "num_key_value_heads": 1}
    vision = {"hidden_size": 48, "num_hidden_layers": 1, "num_attention_heads": 4, "image_size": 64, "mlp_ratio": 2}
    vq = {"base_channels": 32, "channel_multiplier": [1, 1], "num_res_blocks": 1, "embed_dim": 4, "num_embeddings": 16}
    vq |= {"latent_channels": 4, "projection_dim": 64, "image_token_embed_dim": 64}
    config = JanusConfig(text_config=text, vision_config=vision | {"projection_dim": 64}, vq_config=vq)
    JanusForConditionalGeneration(config).save_pretrained(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    tensors.pop("lm_head.weight", None)
    for prefix in ("", "module.", "model."):
        save_file({prefix + name: tensor for name, tensor in tensors.items()}, tmp_path / "model.safetensors")
        held = Tensors(tmp_path)
        assert held.prefix == prefix and held.shapes.keys() == tensors.keys()


def test_a_wrapped_siglip_keeps_the_names_of_its_model(tmp_path):
    from transformers import SiglipVisionConfig, SiglipVisionModel

    sizes = {"hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 96}
    SiglipVisionModel(SiglipVisionConfig(**sizes, image_size=64)).save_pretrained(tmp_path)
    expected = load_vit(tmp_path).state_dict()
    rename(tmp_path / "model.safetensors", lambda name: "_orig_mod." + name)
    state = load_vit(tmp_path).state_dict()
    assert all(torch.equal(tensor, state[name]) for name, tensor in expected.items())


# ---- damaged pickles ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("zipped", [True, False])
def test_a_damaged_pickle_is_one_line(janus, zipped):
    """torch's format before 1.6 is a bare pickle: what its bytes ask for, once damaged, may be anything."""
    path, rng, refused = janus / "vae/kl-f16.ckpt", random.Random(0), 0
    tensors = load_file(janus / "vae/kl-f16.safetensors")
    small = {name: tensor for name, tensor in tensors.items() if tensor.numel() < 100}
    torch.save({"state_dict": small, "epoch": 1}, path, _use_new_zipfile_serialization=zipped)
    whole = path.read_bytes()
    for _ in range(300):
        content = bytearray(whole)
        for _ in range(rng.choice([1, 1, 3, 30])):
            content[rng.randrange(min(len(content), 6000))] = rng.randrange(256)
        path.write_bytes(content[: rng.choice([len(content), rng.randrange(len(content))])])
        try:
            Tensors(path)
        except UserError as error:
            assert str(path) in str(error) and "\n" not in str(error)
            refused += 1
    assert refused > 100


def test_keys_that_are_no_names_and_tensors_that_are_not_dense_are_no_traceback(janus):
    path = janus / "vae/kl-f16.ckpt"
    torch.save({1: torch.zeros(2), ("a", 2): torch.zeros(2)}, path)
    with pytest.raises(UserError, match="no named tensors in it"):
        load_vae(path)
    tensors = load_file(janus / "vae/kl-f16.safetensors")
    tensors["quant_conv.bias"] = tensors["quant_conv.bias"].to_sparse()
    torch.save(tensors, path)
    with pytest.raises(UserError, match=r"1 tensors of a kind that is not copied \(quant_conv\.bias sparse_coo\)"):
        load_vae(path)


# ---- convert beside a run ----------------------------------------------------------------------------------------


def write_state(folder):
    (folder / "training.json").write_text("{}")


@pytest.mark.parametrize("name", ["checkpoint", "checkpoint.old", "checkpoint.best"])
def test_convert_never_takes_the_place_of_a_runs_state(micro, tmp_path, name):
    run = tmp_path / "run"
    own_folder(run)
    save_checkpoint(run / name, micro, more=write_state)
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    (tmp_path / "link").symlink_to(run / name)
    inside, elsewhere = run / name / "copy", tmp_path / "link"
    for destination in (run / name, elsewhere, inside):
        done = run_inside(weights.main, "convert", run, destination)
        assert done.returncode == 2 and done.stderr.count("\n") == 1, done.stderr
        assert "keeps its state" in done.stderr or "lies inside the checkpoint" in done.stderr
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before


def test_convert_writes_nothing_where_a_run_will_save(micro_folder, tmp_path):
    own_folder(tmp_path / "run")
    with pytest.raises(UserError, match="is where a training run keeps its state"):
        convert(micro_folder, tmp_path / "run/checkpoint", torch.float32, None)
    convert(micro_folder, tmp_path / "run/export", torch.float32, None)
