"""The trained classifier: the shipped one is this code's, a file is read back the same, other code is noticed."""

import inspect
import sys

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from common.errors import UserError, run
from judges import classifier
from judges.trained_classifier import (
    SHIPPED_CLASSIFIER,
    code_of,
    fingerprint,
    load_classifier,
    main,
    version_of,
)
from phantoms import dataset, drawing
from phantoms.dataset import phantom

TINY = classifier.ClassifierRecipe(train=16, validation=8, epochs=1, batch=8)


@pytest.fixture
def changed(monkeypatch):
    """A function that makes the code of a module look changed."""
    getsource = inspect.getsource

    def change(module, edit):
        monkeypatch.setattr(inspect, "getsource", lambda part: (edit if part is module else str)(getsource(part)))

    return change


def test_the_shipped_classifier_was_made_by_this_code():
    """If not: python -m judges.trained_classifier, and commit what it writes once the code is settled."""
    assert version_of(SHIPPED_CLASSIFIER) == fingerprint(classifier.ClassifierRecipe())
    assert SHIPPED_CLASSIFIER.stat().st_size < 1.1e6
    shipped = load_classifier()
    phantoms = [phantom(1, index, 256) for index in range(24)]
    probabilities, _ = classifier.judge(shipped, np.stack([p.image for p in phantoms]))
    right = classifier.shown(shipped, probabilities) == classifier.truth_array(phantoms)
    assert right.mean() > 0.97


def test_a_trained_classifier_is_read_back_the_same_and_other_code_is_noticed(tmp_path, monkeypatch, capsys, changed):
    file, train = tmp_path / "classifier.safetensors", classifier.train
    monkeypatch.setattr(sys, "argv", ["trained_classifier", "--out", str(file)])
    monkeypatch.setattr(classifier, "train", lambda recipe: kept.append(train(TINY, progress=False)) or kept[0])
    kept = []
    main()
    assert [f.name for f in tmp_path.iterdir()] == [file.name]
    read = load_classifier(file).state_dict()
    assert all(torch.equal(value, read[name]) for name, value in kept[0].state_dict().items())
    assert capsys.readouterr().err == ""
    changed(drawing, lambda source: source + "\nx = 1\n")
    load_classifier(file)
    assert "another version" in capsys.readouterr().err


def test_what_never_runs_has_no_part_in_the_version(changed):
    before = fingerprint(TINY)
    changed(drawing, lambda source: source.replace('"""', '"""Words. ', 1).replace("\n\n", "\n\n# a comment\n\n\n"))
    assert fingerprint(TINY) == before
    assert code_of('"""Doc."""\n\nx = "# no comment"  # one\n') == 'x = "# no comment"'


@pytest.mark.parametrize("part", [drawing, classifier, dataset.phantom], ids=lambda part: part.__name__)
def test_what_decides_the_result_has(changed, part):
    before = fingerprint(TINY)
    changed(part, lambda source: source.rstrip() + "\n    x = 1\n")
    assert fingerprint(TINY) != before


def test_a_file_that_is_no_classifier_is_refused(tmp_path):
    file = tmp_path / "classifier.safetensors"
    file.write_bytes(b"not tensors")
    with pytest.raises(UserError, match="--classifier"):
        load_classifier(file)


def test_a_classifier_of_more_or_fewer_layers_is_refused_by_name(tmp_path):
    file = tmp_path / "classifier.safetensors"
    tensors = classifier.PhantomClassifier().state_dict()
    save_file({name: tensor for name, tensor in tensors.items() if "blocks.3." not in name}, file)
    with pytest.raises(UserError, match=r"--classifier .*blocks\.3\.conv1\.weight"):
        load_classifier(file)
    save_file(tensors | {"blocks.4.conv1.weight": tensors["blocks.3.conv1.weight"].clone()}, file)
    with pytest.raises(UserError, match=r"--classifier .*blocks\.4\.conv1\.weight"):
        load_classifier(file)


def test_the_command_writes_over_a_classifier_and_nothing_else(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(classifier, "train", lambda *_: classifier.PhantomClassifier())
    file = tmp_path / "classifier.safetensors"
    monkeypatch.setattr(sys, "argv", ["trained_classifier", "--out", str(file)])
    for _ in range(2):
        main()
    assert version_of(file) == fingerprint(classifier.ClassifierRecipe())
    file.write_text("a letter")
    with pytest.raises(SystemExit) as stopped:
        run(main)
    assert stopped.value.code == 2 and "no classifier of ours" in capsys.readouterr().err
    assert file.read_text() == "a letter"
