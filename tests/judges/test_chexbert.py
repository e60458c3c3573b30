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
