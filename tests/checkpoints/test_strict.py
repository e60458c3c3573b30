"""No wrong model in silence: what a file holds, what its config says and what is loaded are the same, or it is refused."""

import json
import shutil

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


@pytest.mark.parametrize("pickled", [False, True])
def test_an_index_that_lists_what_its_shard_lacks(janus, pickled):
    as_shards(janus, pickled)
    index = next(janus.glob("*.index.json"))
    change_json(index, lambda values: values["weight_map"].update(ghost=next(iter(values["weight_map"].values()))))
    assert "1 tensors are not in the shard it names (ghost)" in refusal(janus)


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
