"""No wrong model in silence: what a file holds, its config says and is loaded are the same, or it is refused."""

import json
import shutil
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file

from common.errors import UserError
from published import as_shards, edit
from weights import load_checkpoint


@pytest.fixture
def ours(micro_folder, tmp_path):
    """A folder of ours without checksums, so that a change meets the checks behind them."""
    folder = shutil.copytree(micro_folder, tmp_path / "ours")
    (folder / "manifest.json").unlink(missing_ok=True)
    return folder


def change_json(path, change):
    values = json.loads(path.read_text())
    change(values)
    path.write_text(json.dumps(values))


def refusal(folder, **how):
    """The one line that says why a folder is not loaded."""
    with pytest.raises(UserError) as error:
        load_checkpoint(folder, **how)
    assert "\n" not in str(error.value)
    return str(error.value)


# ---- shards ------------------------------------------------------------------------------------------------------


def test_a_tensor_in_two_shards(janus):
    as_shards(janus, pickled=False)
    first, second = sorted(janus.glob("model-*.safetensors"))
    name = next(iter(load_file(first)))
    edit(second, lambda tensors: tensors.update({name: torch.zeros(3)}))
    assert f"{second.name}: another shard holds {name} too" in refusal(janus)


@pytest.mark.parametrize("path", ["../secret.safetensors", "{absolute}", "a/b.safetensors", "..", "a\\b.safetensors"])
def test_a_shard_lies_beside_its_index(janus, tmp_path, path):
    as_shards(janus, pickled=False)
    shard = sorted(janus.glob("model-*.safetensors"))[0]
    (janus / "a").mkdir()
    for copy in (tmp_path / "secret.safetensors", janus / "a/b.safetensors", janus / "a\\b.safetensors"):
        shutil.copy(shard, copy)
    path = path.format(absolute=tmp_path / "secret.safetensors")
    index = janus / "model.safetensors.index.json"
    change_json(
        index,
        lambda values: values.update(
            weight_map={name: path if file == shard.name else file for name, file in values["weight_map"].items()}
        ),
    )
    assert "which is no file beside it" in refusal(janus)


# ---- numbers -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.int8, torch.int64, torch.bool, torch.float8_e4m3fn, torch.float8_e5m2])
def test_quantised_weights_are_not_copied_as_they_stand(ours, dtype):
    edit(
        ours / "model.safetensors",
        lambda tensors: tensors.update({"lm_head.weight": tensors["lm_head.weight"].to(dtype)}),
    )
    words = refusal(ours)
    assert "1 tensors of a kind that is not copied (lm_head.weight " in words and "model.safetensors" in words


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_every_kind_of_float_is_copied(ours, dtype):
    edit(
        ours / "model.safetensors",
        lambda tensors: tensors.update({"lm_head.weight": tensors["lm_head.weight"].to(dtype)}),
    )
    assert load_checkpoint(ours).model.lm_head.weight.dtype == torch.float32


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("file", ["model.safetensors", "vae.safetensors"])
def test_a_weight_that_is_no_number_is_named(ours, file, bad):
    name = sorted(load_file(ours / file))[-1]
    edit(ours / file, lambda tensors: tensors[name].view(-1)[-1:].fill_(bad))
    assert f"{file}: {name} holds NaN or infinite numbers" in refusal(ours)


def test_a_weight_that_only_float16_cannot_hold_is_named(ours):
    edit(ours / "model.safetensors", lambda tensors: tensors["lm_head.weight"].view(-1)[:1].fill_(1e6))
    load_checkpoint(ours)
    assert "lm_head.weight holds NaN or infinite numbers as torch.float16" in refusal(ours, dtype=torch.float16)


def test_large_weights_whose_sum_overflows_are_finite(ours):
    edit(ours / "model.safetensors", lambda tensors: tensors["lm_head.weight"].fill_(3e38))
    load_checkpoint(ours)


# ---- layers ------------------------------------------------------------------------------------------------------


def without_layer(path, prefix):
    edit(path, lambda tensors: [tensors.pop(name) for name in list(tensors) if name.startswith(prefix)])


@pytest.mark.parametrize(
    ("prefix", "given", "what"),
    [
        ("language_model.model.layers.2.", {"language_config": {"num_hidden_layers": 3}}, "2 layers of the LLM"),
        ("vision_model.vision_tower.blocks.1.", {"vision_config": {"params": {"layers": 2}}}, "1 layers of the ViT"),
        ("vision_model.vision_tower.blocks.1.", {"vision_config": {"num_hidden_layers": 2}}, "1 layers of the ViT"),
        ("vision_model.vision_tower.blocks.1.", {"vision_config": {"layers": 2}}, "1 layers of the ViT"),
    ],
)
def test_a_published_folder_without_its_last_layer(janus, prefix, given, what):
    def count(values):
        for name, more in given.items():
            for key, value in more.items():
                old = values[name].get(key)
                values[name][key] = {**old, **value} if isinstance(old, dict) else value

    change_json(janus / "config.json", count)
    load_checkpoint(janus)
    without_layer(janus / "model.safetensors", prefix)
    assert f"model.safetensors: holds {what}, config.json counts" in refusal(janus)


# ---- configs -----------------------------------------------------------------------------------------------------

ABSURD = ["256", None, 10**12, -1, 0, 2.5, True, [1], {}, "x" * 10_000]


@pytest.mark.parametrize("value", ABSURD, ids=lambda value: repr(value)[:12])
@pytest.mark.parametrize(
    "field", ["hidden_size", "num_layers", "vocab_size", "max_latent_size", "vit.width", "vit.layers", "vae.ch"]
)
def test_a_size_of_the_wrong_type_or_an_absurd_one_is_a_line(ours, field, value):
    *where, name = field.split(".")

    def change(values):
        part = values["vae"] if where == ["vae"] else values["model"]["vit"] if where else values["model"]
        part[name] = value

    change_json(ours / "config.json", change)
    words = refusal(ours)
    assert f"config.json: {'model.' * (where != ['vae'])}{field} is " in words and len(words) < 400


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda c: c["model"].update(num_heads=7), "model.num_heads is 7; it must divide hidden_size, 64"),
        (lambda c: c["model"].update(num_heads=64), "model.num_heads is 64; 1 channels a head are not even"),
        (lambda c: c["model"]["vit"].update(heads=5), "model.vit.heads is 5; it must divide the width, 32"),
        (
            lambda c: c["model"]["vit"].update(patch_size=15),
            "model.vit.patch_size is 15; it must divide image_size, 64",
        ),
        (lambda c: c["model"].update(eos=400), "model.eos is 400; the vocabulary's ids go from 0 to 399"),
        (lambda c: c["model"].update(boi=-1), "model.boi is -1; the vocabulary's ids go from 0 to 399"),
        (lambda c: c["model"].update(bos="0"), "model.bos is '0'; it must be a whole number"),
        (lambda c: c["model"].update(rope_theta=None), "model.rope_theta is null; it must be a finite number"),
        (lambda c: c["model"].update(qk_norm=1), "model.qk_norm is 1; it must be true or false"),
        (lambda c: c["model"].update(connector_act="relu"), "model.connector_act is 'relu'; it must be one of gelu"),
        (lambda c: c["model"].update(repa_layer=4), "model.repa_layer is 4; the model has 3 layers"),
        (lambda c: c["model"].update(hiden_size=64), "model.'hiden_size' is no field of ours"),
        (lambda c: c["model"].update(vit=None), "model.vit is null; it must be an object"),
        (lambda c: c["model"].pop("vit"), "model.vit is null; it must be an object"),
        (lambda c: c.update(model=[]), "model is []; it must be an object"),
        (lambda c: c.pop("vae"), "vae is null; it must be an object"),
        (lambda c: c["vae"].update(norm_groups=24), "vae.norm_groups is 24; it must divide every level's width, 32"),
        (lambda c: c["vae"].update(ch_mult=[1, "2"]), "vae.ch_mult is (1, '2'); it must be a whole number"),
        (lambda c: c["vae"].update(patch=2), "vae.ch_mult and patch make a latent of 32 px; it must be of 16"),
        (lambda c: c["vae"].update(ch_mult=3), "vae.ch_mult is 3; it must be"),
        (lambda c: c["vae"].update(scale_factor=0), "vae.scale_factor is 0; latents are multiplied by it"),
        (lambda c: c["vae"].update(z_channels=8), "draws latents of 16 channels, its autoencoder decodes 8"),
        (lambda c: c.update(history=[3]), "history is no list of training stages"),
        # Within the ranges, yet 10 TB: refused by the file's shapes before memory is taken.
        (lambda c: c["model"].update(hidden_size=2**15, intermediate_size=2**17, num_layers=64), "of a wrong shape"),
    ],
)
def test_a_config_that_cannot_be_meant_names_the_field(ours, change, words):
    change_json(ours / "config.json", change)
    assert words in refusal(ours)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda c: c["language_config"].update(num_attention_heads="4"), "num_heads is '4'; it must be a whole number"),
        (lambda c: c["language_config"].update(num_attention_heads=7), "num_heads is 7; it must divide hidden_size"),
        (lambda c: c["language_config"].update(num_hidden_layers="3"), "num_hidden_layers is '3'; it must be a whole"),
        (lambda c: c["language_config"].update(max_position_embeddings=10**12), "context_length is 1000000000000"),
        (lambda c: c["language_config"].update(rms_norm_eps="1e-6"), "rms_norm_eps is '1e-6'; it must be a finite"),
        (lambda c: c["language_config"].update(rope_parameters=3), "rope_parameters is 3; it must be an object"),
        (lambda c: c["vision_config"].update(params=[4]), "params is [4]; it must be an object"),
        (lambda c: c["vision_config"]["params"].update(heads=10**12), "vit.heads is 1000000000000"),
        (lambda c: c.update(language_config="llama"), "language_config is 'llama'; it must be an object"),
    ],
)
def test_a_published_config_that_cannot_be_meant_names_the_field(janus, change, words):
    change_json(janus / "config.json", change)
    assert f"config.json: {words}" in refusal(janus)


def test_a_tokenizer_larger_than_our_vocabulary(ours):
    def grow(values):
        values["added_tokens"].append({**values["added_tokens"][0], "id": 400, "content": "<|more|>"})

    change_json(ours / "tokenizer.json", grow)
    assert "tokenizer.json: has 401 tokens, the model 400; is it this model's tokenizer?" in refusal(ours)


@pytest.mark.parametrize("vae", ["missing.ckpt", "vae.safetensors"])
def test_an_autoencoder_for_our_own_folder_is_refused(ours, vae):
    assert f"--vae {ours / vae}: {ours} is a folder of ours" in refusal(ours, vae=ours / vae)


def test_convert_with_an_autoencoder_that_is_missing(ours, tmp_path):
    program = [sys.executable, "weights.py", "convert", ours, tmp_path / "new", "--vae", "missing"]
    result = subprocess.run(list(map(str, program)), capture_output=True, text=True)
    assert result.returncode == 2 and result.stderr.startswith("error: --vae missing: ")
    assert not (tmp_path / "new").exists()
