"""Sizes and special tokens of published models."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
from tokenizers import Tokenizer

from checkpoints.configs import read_ours, unix_config
from checkpoints.layouts import JANUS
from checkpoints.presets import count_parameters
from common.errors import UserError
from common.files import SHIPPED
from published import golden_folder
from weights import load_checkpoint


def test_special_ids_come_by_name_from_janus_and_by_number_from_unix(janus, micro, tmp_path):
    names = ("bos", "eos", "boi", "eoi")
    tokenizer = Tokenizer.from_file(str(janus / "tokenizer.json"))
    config = load_checkpoint(janus).model.config
    assert [getattr(config, name) for name in names] == [tokenizer.token_to_id(f"<|{name}|>") for name in names]
    unix = golden_folder(tmp_path / "UniX", "unix_tiny", micro)
    assert [getattr(load_checkpoint(unix).model.config, name) for name in names] == [100000, 100001, 100003, 100580]


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


def test_a_film_is_squared_as_the_weights_know_it(janus, micro, micro_folder, tmp_path):
    def squaring(folder, **flags):
        vit = load_checkpoint(folder, **flags).model.config.vit
        return vit.padding, vit.scaling

    unix = golden_folder(tmp_path / "UniX", "unix_tiny", micro)
    assert squaring(unix) == (255, "shrink")
    assert squaring(janus, parity=True) == (127, "janus")
    assert squaring(janus) == (255, "shrink")  # the start of a UniX
    assert squaring(micro_folder) == (0, "fit")


@pytest.mark.parametrize(("field", "value"), [("padding", 256), ("padding", -1), ("scaling", "stretch")])
def test_a_squaring_that_cannot_be_meant_is_refused(micro_folder, tmp_path, field, value):
    config = json.loads((micro_folder / "config.json").read_text())
    config["model"]["vit"][field] = value
    with pytest.raises(UserError, match=f"model.vit.{field} is "):
        read_ours(config, tmp_path / "config.json")


def test_a_size_has_one_of_three_names():
    given = json.loads((SHIPPED / "config.json").read_text())
    with pytest.raises(UserError, match="recipe is 'huge'; it must be one of tiny, small, unix"):
        read_ours(given | {"model": given["model"] | {"recipe": "huge"}}, Path("config.json"))
