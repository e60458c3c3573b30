"""CheXbert's labels against its heads on `transformers`' BERT; a folder of something else is refused by name."""

import json

import pytest
import torch
from references import MINILM
from safetensors.torch import save_file
from transformers import (
    AutoTokenizer,
    BertModel,
)

from checkpoints.published import load_vit
from common.errors import UserError
from common.observations import OBSERVATIONS
from judges.chexbert import load_chexbert
from judges.raddino import load_raddino
from phantoms.dataset import Phantoms


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


def test_a_folder_of_something_else_is_named(dinov2, chexbert_folder, tmp_path):
    with pytest.raises(UserError, match=r"no CheXbert in it, only model\.safetensors"):
        load_chexbert(dinov2[1])
    with pytest.raises(UserError, match="no layout we know"):
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


def copied(folder, to):
    for file in folder.iterdir():
        (to / file.name).write_bytes(file.read_bytes())
    return to


@pytest.mark.parametrize("number", ["9999", "9" * 9, "9" * 5000])
def test_a_layer_of_an_absurd_number_is_refused_at_once(chexbert_folder, tmp_path, number):
    state = torch.load(copied(chexbert_folder, tmp_path) / "chexbert.pth", weights_only=True)
    state["model_state_dict"][f"module.bert.encoder.layer.{number}.output.dense.bias"] = torch.zeros(384)
    torch.save(state, tmp_path / "chexbert.pth")
    with pytest.raises(UserError, match=r"chexbert\.pth: (holds|\d+ tensors)"):
        load_chexbert(tmp_path)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda lines: [*lines, "pneumonitis"], "has 30523 words, the model 30522"),
        (lambda lines: lines[:-500], "has 30022 words, the model 30522"),
    ],
)
def test_a_vocabulary_of_another_size_is_refused(chexbert_folder, tmp_path, change, words):
    vocabulary = copied(chexbert_folder, tmp_path) / "vocab.txt"
    vocabulary.write_bytes("\n".join(change(vocabulary.read_bytes().decode().split("\n")[:-1])).encode())
    with pytest.raises(UserError, match=rf"vocab\.txt: {words}"):
        load_chexbert(tmp_path)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"num_attention_heads": 7}, "num_attention_heads is 7; it must divide the width, 384"),
        ({"num_attention_heads": 0}, "num_attention_heads is 0"),
        ({"num_attention_heads": -4}, "num_attention_heads is -4"),
        ({"num_attention_heads": "12"}, "num_attention_heads is 12"),
        ({"num_attention_heads": None}, "num_attention_heads is None"),
        ({"hidden_act": "relu"}, "hidden_act is 'relu'; our BERT computes gelu alone"),
        ({"layer_norm_eps": 1e-5}, "layer_norm_eps is 1e-05; our BERT computes 1e-12 alone"),
        ({"position_embedding_type": "relative_key"}, "position_embedding_type is 'relative_key'"),
    ],
)
def test_a_config_that_our_bert_does_not_compute_is_refused(chexbert_folder, tmp_path, given, words):
    config = copied(chexbert_folder, tmp_path) / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | given))
    with pytest.raises(UserError, match=rf"config\.json: {words}"):
        load_chexbert(tmp_path)


def test_another_number_of_layers_than_its_config_counts_is_refused(chexbert_folder, tmp_path):
    for file in chexbert_folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    config = json.loads((tmp_path / "config.json").read_text())
    held = config["num_hidden_layers"]
    (tmp_path / "config.json").write_text(json.dumps(config | {"num_hidden_layers": held + 1}))
    with pytest.raises(
        UserError, match=rf"chexbert\.pth: holds {held} layers of the BERT, config\.json counts {held + 1}"
    ):
        load_chexbert(tmp_path)
