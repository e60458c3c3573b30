"""BioViL-T's similarity against hi-ml-multimodal 0.2.2 itself, whose numbers biovil_t_reference.py has written."""

import json
from pathlib import Path

import pytest
import torch
from biovil_t_reference import BERT, FILMS, TEXTS, film, published_files
from references import MINILM, close

from checkpoints.layouts import BIOVIL_T
from checkpoints.tensors import Tensors, recognise
from common.errors import UserError
from judges.biovil import load_aligner

EXPECTED = json.loads((Path(__file__).parent / "biovil_t_expected.json").read_text())


@pytest.fixture(scope="module")
def biovil_t_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("biovil_t")
    image, text = published_files(EXPECTED["shapes"])
    torch.save(image, folder / "biovil_t_image_model_proj_size_128.pt")
    torch.save(text, folder / "pytorch_model.bin")
    (folder / "config.json").write_text(json.dumps(BERT))
    (folder / "vocab.txt").write_bytes((MINILM / "vocab.txt").read_bytes())
    return folder


def test_biovil_t_computes_what_its_package_computes(biovil_t_folder):
    aligner = load_aligner(biovil_t_folder)
    assert (aligner.name, aligner.crop) == ("BioViL-T", 448)
    sides = {}
    aligner.image_side.register_forward_hook(lambda module, given, made: sides.update(image=made))
    aligner.text_side.register_forward_hook(lambda module, given, made: sides.update(text=made))
    similarity = aligner([film(*made) for made in FILMS], TEXTS)
    close(sides["image"], torch.tensor(EXPECTED["image"]))
    close(sides["text"], torch.tensor(EXPECTED["text"]))
    expected = torch.tensor(EXPECTED["similarity"])
    close(similarity, expected.diagonal())
    assert expected.std(dim=0).min() > 5e-4 and expected.std(dim=1).min() > 5e-4  # films and texts matter


def test_its_file_is_known_from_biovils(biovil_t_folder, aligner_folder):
    assert recognise(Tensors(biovil_t_folder / "biovil_t_image_model_proj_size_128.pt")) is BIOVIL_T
    assert load_aligner(aligner_folder[0]).name == "BioViL"


def test_a_missing_tensor_of_the_missing_image_is_named(biovil_t_folder, tmp_path):
    image, text = published_files(EXPECTED["shapes"])
    del image["encoder.backbone_to_vit.weight"]
    torch.save(image, tmp_path / "image.pt")
    torch.save(text, tmp_path / "text.bin")
    (tmp_path / "vocab.txt").write_bytes((MINILM / "vocab.txt").read_bytes())
    with pytest.raises(UserError, match=r"image\.pt: 1 tensors? missing \(reduce\.weight"):
        load_aligner(tmp_path)
