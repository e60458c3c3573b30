"""The classifier of phantoms: trained once, read back the same, and its thresholds."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from common.errors import UserError
from judges import classifier
from phantoms.dataset import phantom

TINY = classifier.ClassifierRecipe(train=16, validation=8, epochs=1, batch=8)


def test_thresholds_take_the_middle_of_the_best_range():
    truth = np.array([[0], [0], [1], [1]], dtype=bool)
    threshold = classifier.best_thresholds(truth, np.array([[0.1], [0.2], [0.6], [0.9]]))
    assert threshold == pytest.approx([0.395], abs=0.01)  # anything from 0.20 to 0.59 separates them


def test_large_pictures_are_averaged_down():
    image = np.random.default_rng(0).integers(0, 256, (1, 256, 256), dtype=np.uint8)
    expected = image.reshape(128, 2, 128, 2).mean(axis=(1, 3)) / 255
    np.testing.assert_allclose(classifier.to_pixels(image)[0, 0], expected, atol=1e-6)


def test_the_classifier_is_trained_once_and_read_back_the_same(tmp_path, monkeypatch, capsys):
    file = tmp_path / "classifier.safetensors"
    trained, where = classifier.load_or_train(file, TINY, progress=False)
    assert where == str(file) and [f.name for f in tmp_path.iterdir()] == [file.name]
    monkeypatch.setattr(classifier, "train", lambda *_: pytest.fail("trained twice"))
    loaded, _ = classifier.load_or_train(file, TINY, progress=False)
    images = np.stack([phantom(1, 0, 256).image])
    np.testing.assert_array_equal(classifier.judge(trained, images)[0], classifier.judge(loaded, images)[0])
    assert capsys.readouterr().err == ""
    classifier.load_or_train(file, classifier.ClassifierRecipe(train=24), progress=False)
    assert "another version" in capsys.readouterr().err


def test_a_file_that_is_no_classifier_is_refused(tmp_path):
    file = tmp_path / "classifier.safetensors"
    file.write_bytes(b"not tensors")
    with pytest.raises(UserError, match="--classifier"):
        classifier.load_or_train(file, TINY, progress=False)


def test_training_leaves_the_global_generator_alone():
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    classifier.train(classifier.ClassifierRecipe(train=8, validation=4, epochs=1, batch=8), progress=False)
    assert torch.equal(before, torch.random.get_rng_state())


def test_the_default_file_is_named_by_the_code_and_the_recipe(tmp_path, monkeypatch):
    monkeypatch.setattr(classifier, "CACHE", tmp_path)
    trained = []

    def train(*_):
        trained.append(1)
        return classifier.PhantomClassifier()

    monkeypatch.setattr(classifier, "train", train)
    names = [classifier.load_or_train(None, TINY, progress=False)[1] for _ in range(2)]
    assert len(trained) == 1 and names[0] == names[1]
    names.append(classifier.load_or_train(None, replace(TINY, epochs=2), progress=False)[1])
    monkeypatch.setattr(classifier, "source_hash", lambda *_: "other code")  # as after a change in phantoms/
    names.append(classifier.load_or_train(None, TINY, progress=False)[1])
    assert len(trained) == 3 and len(set(names)) == 3 and len(list(tmp_path.iterdir())) == 3
