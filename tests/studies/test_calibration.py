"""Confidence against the truth: closed forms, and a count by brute force."""

import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest

from common.observations import OBSERVATIONS
from common.ownership import own_file
from studies import calibration


def test_calibration_error_by_brute_force_and_by_its_extremes():
    rng = np.random.default_rng(0)
    affirmed, truth = rng.integers(0, 5, (60, 14)), rng.random((60, 14)) < 0.4
    expected = 0.0
    for k in range(5):
        answers = truth[affirmed == k]
        expected += len(answers) / truth.size * abs(answers.mean() - k / 4)
    found = calibration.scores(truth, affirmed, 4)
    assert found["ece"][0] == pytest.approx(expected) and found["ece"][1] <= expected <= found["ece"][2] + 0.05
    assert found["brier"] == pytest.approx(np.mean((affirmed / 4 - truth) ** 2))
    assert sum(dot[4] for dot in found["dots"]) == truth.size
    assert calibration.scores(truth, truth * 4, 4)["ece"][0] == 0
    assert calibration.scores(truth, ~truth * 4, 4)["ece"][0] == 1


def test_what_is_as_often_true_as_it_says_is_calibrated_and_always_sure_is_not():
    rng = np.random.default_rng(1)
    confidence = rng.integers(0, 11, (4000, 14))
    truth = rng.random(confidence.shape) < confidence / 10
    assert calibration.scores(truth, confidence, 10)["ece"][0] < 0.01
    sure = (confidence > 5).astype(int)
    wrong = (sure != truth).mean()  # in either bin, the calibration error of 0/1 is how often it is wrong
    assert calibration.scores(truth, sure, 1)["ece"][0] == pytest.approx(wrong)


def test_wilson_interval_of_a_published_example():
    """Newcombe 1998, table I: 81 of 263 gives 0.2553 to 0.3662, 0 of 20 gives 0 to 0.1611."""
    assert calibration.wilson(81, 263) == pytest.approx((0.2553, 0.3662), abs=1e-4)
    assert calibration.wilson(0, 20) == pytest.approx((0, 0.1611), abs=1e-4)


def test_reports_become_shares_and_a_diagram(tmp_path):
    truth = np.zeros((2, 14), dtype=bool)
    truth[0, OBSERVATIONS.index("Pleural Effusion")] = truth[1, OBSERVATIONS.index("No Finding")] = True
    effusion, normal = "Small left pleural effusion.", "No acute cardiopulmonary process."
    found = calibration.measure(truth, [effusion, normal], [[effusion] * 3 + [normal], [normal] * 4])
    assert found["reports"] == 4 and found["in_doubt"] == 2
    assert found["greedy"]["ece"][0] == found["greedy"]["brier"] == 0
    assert found["sampled"]["ece"][0] == pytest.approx(2 * 0.25 / 28)
    svg = calibration.reliability(found)
    (tmp_path / "x.svg").write_text(svg)
    own_file(tmp_path / "x.svg")  # may be written over
    circles = ElementTree.fromstring(svg).iter("{http://www.w3.org/2000/svg}circle")
    assert len(list(circles)) == sum(len(found[column]["dots"]) for column in ("sampled", "greedy"))
    scores, dots, shown = calibration.calibration_blocks(found, 2, 1.0, 0.9)
    assert "28 answers" in scores.note and "temperature 1" in scores.note and shown == svg
    assert [row[:2] for row in dots.rows] == [["0% sure", 25], ["25% sure", 1], ["75% sure", 1], ["100% sure", 1]]
