"""What is drawn can be seen, measured, and lies on the right side."""

import numpy as np
import pytest
from phantom_samples import SAMPLES, drawn, half, sampled
from PIL import Image

from phantoms import drawing, truth
from phantoms.dataset import phantom


@pytest.mark.parametrize("size", [16, 128, 256, 320])
def test_pictures_are_uint8_of_the_size_asked_for(size):
    image = phantom(0, 1, size).image
    assert image.shape == (size, size) and image.dtype == np.uint8
    assert np.ptp(image) > 150  # from the black of air to the white of bone


def test_a_small_picture_is_the_large_one_reduced():
    for index in range(3):
        large = Image.fromarray(phantom(2, index, 256).image).resize((128, 128), Image.Resampling.BOX)
        small = phantom(2, index, 128).image
        assert np.abs(np.asarray(large, dtype=float) - small).mean() < 1.0


def test_the_picture_comes_from_the_truth_stream_alone():
    """`phantom` draws what `truth` says, and drawing again from the parts gives the same picture."""
    sample, patient = phantom(4, 9), truth.truth(4, 9)
    assert sample.findings == patient.findings and sample.view == patient.view
    assert np.array_equal(sample.image, drawing.draw(patient, truth.streams(4, 9)[1]))


def test_the_measured_cardiothoracic_ratio_is_the_one_reported():
    for index, patient in enumerate(SAMPLES[:200]):
        measured = drawing.anatomy(patient, np.random.default_rng(index)).cardiothoracic_ratio()
        assert measured == pytest.approx(patient.cardiothoracic_ratio, abs=0.005)
        enlarged = [f for f in patient.findings if f.observation == "Cardiomegaly"]
        if not enlarged:
            assert measured < 0.505
            continue
        lower, upper = {"mild": (0.55, 0.605), "moderate": (0.605, 0.66), "severe": (0.66, 0.72)}[enlarged[0].severity]
        assert lower - 0.005 < measured < upper + 0.005


def test_a_large_heart_widens_the_white_middle_of_the_picture():
    big = drawing.draw(truth.Patient("PA", 0.66, (sampled("Cardiomegaly", severity="severe"),)), truth.streams(3, 0)[1])
    assert (big.astype(float) - drawn())[128:190, 60:200].mean() > 15


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("severity", ["small", "moderate", "large"])
def test_an_effusion_whitens_the_costophrenic_angle_of_its_side(side, severity):
    change = drawn(sampled("Pleural Effusion", side=side, severity=severity)) - drawn()
    other = {"left": "right", "right": "left"}[side]
    assert np.percentile(half(change, side)[140:], 97) > 25
    assert np.abs(half(change, other)).max() < 3


@pytest.mark.parametrize("side", ["left", "right"])
def test_beyond_the_pleural_line_a_pneumothorax_is_darker_and_smoother(side):
    change = drawn(sampled("Pneumothorax", side=side, severity="large")) - drawn()
    assert np.percentile(half(change, side)[40:150], 20) < -15  # air where lung was
    assert np.percentile(half(change, side)[40:150], 99) > 25  # the collapsed lung and its pleura
    assert np.abs(half(change, {"left": "right", "right": "left"}[side])).max() < 3


@pytest.mark.parametrize("name", [n for n in truth.PATHOLOGIES if n != "Cardiomegaly"])
def test_every_finding_can_be_seen_at_128_pixels(name):
    """At least thirty pixels of 128 x 128 change by far more than the noise (about 2 grey levels)."""
    for index in range(8):
        change = drawn(sampled(name, index), size=128) - drawn(size=128)
        assert (np.abs(change) > 12).sum() >= 30, sampled(name, index)


@pytest.mark.parametrize(
    "name", ["Lung Opacity", "Lung Lesion", "Consolidation", "Pneumonia", "Pleural Other", "Fracture", "Atelectasis"]
)
@pytest.mark.parametrize("side", ["left", "right"])
def test_what_is_said_of_one_side_is_drawn_on_that_side(name, side):
    change = np.abs(drawn(sampled(name, side=side)) - drawn())
    assert half(change, side).sum() > 4 * half(change, {"left": "right", "right": "left"}[side]).sum()


@pytest.mark.parametrize("kind", ["endotracheal tube", "central venous catheter", "pacemaker"])
def test_devices_are_bright(kind):
    device = truth.Finding("Support Devices", kind, None if kind == "endotracheal tube" else "left")
    assert np.percentile(drawn(device) - drawn(), 99.7) > 20
