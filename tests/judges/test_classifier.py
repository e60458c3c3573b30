"""The classifier of phantoms: its thresholds, what it sees, and that it keeps its randomness to itself."""

import numpy as np
import pytest
import torch

from judges import classifier


def test_thresholds_take_the_middle_of_the_best_range():
    truth = np.array([[0], [0], [1], [1]], dtype=bool)
    threshold = classifier.best_thresholds(truth, np.array([[0.1], [0.2], [0.6], [0.9]]))
    assert threshold == pytest.approx([0.395], abs=0.01)  # anything from 0.20 to 0.59 separates them


def test_large_pictures_are_averaged_down():
    image = np.random.default_rng(0).integers(0, 256, (1, 256, 256), dtype=np.uint8)
    expected = image.reshape(128, 2, 128, 2).mean(axis=(1, 3)) / 255
    np.testing.assert_allclose(classifier.to_pixels(image)[0, 0], expected, atol=1e-6)


def test_training_leaves_the_global_generator_alone():
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    classifier.train(classifier.ClassifierRecipe(train=8, validation=4, epochs=1, batch=8), progress=False)
    assert torch.equal(before, torch.random.get_rng_state())
