"""The linear judge of drawings: the regression of scikit-learn, and areas that say who was asked for what."""

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from common.observations import OBSERVATIONS
from evaluation.shown import fit_judge, mean_area, score_shown


def example(seed, n=400, width=6):
    """Features in which observation k < 3 moves feature k; the others are never there."""
    rng = np.random.default_rng(seed)
    labels = np.zeros((n, len(OBSERVATIONS)), bool)
    labels[:, :3] = rng.random((n, 3)) < 0.3
    found = rng.normal(size=(n, width))
    found[:, :3] += 2 * labels[:, :3]
    return found.astype(np.float32), labels


def test_the_judge_is_logistic_regression():
    found, labels = example(0)
    penalty = 0.05
    ours = fit_judge(found, labels[:, :3], penalty)(found)
    scaled = (found - found.mean(axis=0)) / (found.std(axis=0, ddof=1) + 1e-6)
    for k in range(3):
        theirs = LogisticRegression(C=1 / (penalty * len(found)), tol=1e-8, max_iter=1000).fit(scaled, labels[:, k])
        assert ours[:, k] == pytest.approx(theirs.decision_function(scaled), abs=2e-3)


def test_drawings_that_heed_their_prompts_score_as_real_films_and_exchanged_prompts_at_chance():
    mean = score_shown(example(0), example(1), example(2))
    assert mean["real"][0] > 0.85 and mean["drawn"][0] == pytest.approx(mean["real"][0], abs=0.05)
    assert mean["shuffled"][0] == pytest.approx(0.5, abs=0.06)
    deaf = example(2)[0], example(3)[1]  # drawings that show something else than was asked
    assert score_shown(example(0), example(1), deaf)["drawn"][0] == pytest.approx(0.5, abs=0.06)
    assert score_shown(example(0), example(1), (deaf[0][:8], deaf[1][:8])) is None


def test_the_mean_area_is_scikit_learns_and_lies_in_its_interval():
    rng = np.random.default_rng(0)
    truth = rng.random((200, 2)) < 0.2
    scores = truth + rng.normal(size=truth.shape)
    value, low, high = mean_area(scores, truth)
    assert value == pytest.approx(roc_auc_score(truth, scores)) and low < value < high
    assert high - low < 0.2
