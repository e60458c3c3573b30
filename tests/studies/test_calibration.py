"""Confidence against the truth: closed forms, and a count by brute force."""

import sys

import numpy as np
import pytest

from common.observations import OBSERVATIONS
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
    assert sum(number for _, _, number in found["dots"]) == truth.size
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


def test_reports_become_shares():
    truth = np.zeros((2, 14), dtype=bool)
    truth[0, OBSERVATIONS.index("Pleural Effusion")] = truth[1, OBSERVATIONS.index("No Finding")] = True
    effusion, normal = "Small left pleural effusion.", "No acute cardiopulmonary process."
    found = calibration.measure(truth, [effusion, normal], [[effusion] * 3 + [normal], [normal] * 4])
    assert found["reports"] == 4 and found["in_doubt"] == 2
    assert found["greedy"]["ece"][0] == found["greedy"]["brier"] == 0
    assert found["sampled"]["ece"][0] == pytest.approx(2 * 0.25 / 28)
    scores, dots = calibration.calibration_tables(found, 2)
    assert "28 answers" in scores.note
    assert dots.rows == [
        ["0% sure", 25, "0.0%"],
        ["25% sure", 1, "0.0%"],
        ["75% sure", 1, "100.0%"],
        ["100% sure", 1, "100.0%"],
    ]


@pytest.mark.slow
def test_the_command_prints_both_tables(micro_folder, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["calibration", "--weights", str(micro_folder), "--n", "2", "--reports", "3"])
    calibration.main()
    printed = capsys.readouterr().out
    assert "Confidence: 3 sampled reports of each of 2 phantoms" in printed and "expected calibration error" in printed
    assert "Is what it is sure of true?" in printed and "not a medical device" in printed
