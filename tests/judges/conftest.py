"""Published folders of judges, small and random."""

import json

import pytest
import torch
from references import MINILM, randomise, torchvision_names
from transformers import (
    BertConfig,
    BertModel,
    Dinov2Config,
    Dinov2Model,
    ResNetConfig,
    ResNetModel,
)


@pytest.fixture(scope="module")
def dinov2(tmp_path_factory):
    folder = tmp_path_factory.mktemp("raddino")
    config = Dinov2Config(hidden_size=48, num_hidden_layers=3, num_attention_heads=4, image_size=70, patch_size=14)
    reference = randomise(Dinov2Model(config))
    reference.save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps({"image_mean": [0.53] * 3, "image_std": [0.26] * 3}))
    return reference, folder


@pytest.fixture(scope="module")
def chexbert_folder(tmp_path_factory):
    """CheXbert's layout with random heads on the real BERT: wrappers, names and all."""
    folder = tmp_path_factory.mktemp("chexbert")
    bert = BertModel.from_pretrained(MINILM)
    generator = torch.Generator().manual_seed(0)
    state = {f"module.bert.{name}": tensor for name, tensor in bert.state_dict().items()}
    state["module.bert.embeddings.position_ids"] = torch.arange(512)[None]
    for i in range(14):
        state[f"module.linear_heads.{i}.weight"] = torch.randn(2 if i == 13 else 4, 384, generator=generator)
        state[f"module.linear_heads.{i}.bias"] = torch.randn(2 if i == 13 else 4, generator=generator)
    torch.save({"epoch": 3, "model_state_dict": state}, folder / "chexbert.pth")
    for name in ("vocab.txt", "config.json"):  # config.json: MiniLM's heads are narrower than BERT's
        (folder / name).write_bytes((MINILM / name).read_bytes())
    return folder


@pytest.fixture(scope="module")
def aligner_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("aligner")
    reference = randomise(ResNetModel(ResNetConfig()), scale=0.03)
    generator = torch.Generator().manual_seed(1)
    state = torchvision_names(reference)
    state |= {"encoder.encoder.fc.weight": torch.zeros(1000, 2048), "encoder.encoder.fc.bias": torch.zeros(1000)}
    shapes = {"0.weight": (128, 2048, 1, 1), "3.weight": (128, 128, 1, 1)}
    shapes |= {name: (128,) for name in ("1.weight", "1.bias", "1.running_mean", "3.bias")}
    state |= {f"projector.model.{n}": 0.1 * torch.randn(shape, generator=generator) for n, shape in shapes.items()}
    state |= {"projector.model.1.running_var": torch.rand(128, generator=generator) + 0.5}
    state |= {"projector.model.1.num_batches_tracked": torch.tensor(7)}
    torch.save(state, folder / "biovil_image_resnet50_proj_size_128.pt")

    bert = randomise(BertModel(BertConfig(hidden_size=48, num_hidden_layers=2, num_attention_heads=4), False))
    bert.config.save_pretrained(folder)
    text = {f"bert.{name}": tensor for name, tensor in bert.state_dict().items()}
    text |= {"cls.predictions.bias": torch.zeros(30522)}
    for name, shape in {
        "dense_to_hidden.weight": (128, 48),
        "dense_to_hidden.bias": (128,),
        "LayerNorm.weight": (128,),
        "LayerNorm.bias": (128,),
        "dense_to_output.weight": (128, 128),
        "dense_to_output.bias": (128,),
    }.items():
        text[f"cls_projection_head.{name}"] = torch.randn(shape, generator=generator)
    torch.save(text, folder / "pytorch_model.bin")
    (folder / "vocab.txt").write_bytes((MINILM / "vocab.txt").read_bytes())
    return folder, reference, bert
