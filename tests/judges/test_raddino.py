"""RadDino and SigLIP against `transformers`: the same file, loaded by both, gives the same numbers."""

import pytest
import torch
from references import close, randomise
from safetensors.torch import save_file
from transformers import (
    SiglipVisionConfig,
    SiglipVisionModel,
)

from checkpoints.published import load_vit
from common.errors import UserError
from judges.raddino import load_raddino


@pytest.mark.parametrize("size", [(70, 70), (112, 112), (56, 98)])  # its own, larger, and smaller by wider
@torch.no_grad()
def test_raddino_is_dinov2_at_any_size(dinov2, size):
    reference, folder = dinov2
    pixels = torch.randn(2, 3, *size)
    tokens = load_vit(folder).tokens(pixels)
    expected = reference(pixels)
    close(tokens, expected.last_hidden_state)
    close(tokens[:, 0], expected.pooler_output)


def test_raddino_of_an_image_lies_on_the_asked_grid(dinov2):
    reference, folder = dinov2
    raddino = load_raddino(folder)
    images = torch.randint(0, 256, (2, 112, 112), dtype=torch.uint8)
    pooled, patches = raddino(images, side=8)  # 8 * 14 px: no resize
    pixels = ((images / 255 - 0.53) / 0.26)[:, None].expand(-1, 3, -1, -1)
    expected = reference(pixels)
    close(pooled, expected.pooler_output)
    close(patches, expected.last_hidden_state[:, 1:])
    assert raddino(images, side=16)[1].shape == (2, 256, 48)
    assert raddino(images)[1].shape == (2, 25, 48)


@pytest.mark.parametrize("act", ["gelu", "gelu_pytorch_tanh"])
@torch.no_grad()
def test_siglip(tmp_path, act):
    config = SiglipVisionConfig(
        hidden_size=48, num_hidden_layers=3, num_attention_heads=4, intermediate_size=96, image_size=64, hidden_act=act
    )
    reference = randomise(SiglipVisionModel(config))
    reference.save_pretrained(tmp_path)
    pixels = torch.randn(2, 3, 64, 64)
    close(load_vit(tmp_path)(pixels), reference(pixels).last_hidden_state)


def test_half_a_judge_is_refused_by_name(dinov2, tmp_path):
    from safetensors.torch import load_file

    tensors = load_file(dinov2[1] / "model.safetensors")
    del tensors["encoder.layer.1.attention.attention.key.weight"]
    save_file(tensors, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_bytes((dinov2[1] / "config.json").read_bytes())
    with pytest.raises(UserError, match=r"1 tensors missing \(blocks\.1\.qkv\.weight\)"):
        load_vit(tmp_path)
