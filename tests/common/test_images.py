"""A film becomes the square that a model's weights were judged on: UniX's, Janus-Pro's, or ours."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file
from transformers import JanusImageProcessorPil

from common.images import to_square

GOLDEN = Path(__file__).parent.parent / "golden"
EXPECTED = load_file(GOLDEN / "reading_pixels_expected.safetensors")
SIZES = [(500, 300), (301, 777), (384, 384), (200, 150), (2500, 3000), (2000, 30)]


def picture(width, height, seed):
    """By the rule in reading_pixels.json."""
    grey = np.random.RandomState(seed).randint(0, 256, (max(2, height // 16), max(2, width // 16))).astype(np.uint8)
    return Image.fromarray(grey).resize((width, height), Image.Resampling.BICUBIC)


@pytest.mark.parametrize("name", EXPECTED)
def test_unix_sees_the_squares_of_its_published_evaluation(name):
    size, seed = name.split("_seed")
    square = to_square(picture(*map(int, size.split("x")), int(seed)), 384, padding=255, scaling="shrink")
    np.testing.assert_array_equal(square, EXPECTED[name])


def test_the_golden_squares_are_what_their_rule_says():
    assert "LANCZOS" in json.loads((GOLDEN / "reading_pixels.json").read_text())["about"]
    small = EXPECTED["200x150_seed3"]
    assert (small[:117] == 255).all() and (small[:, :92] == 255).all() and small[120:260, 95:285].mean() < 200


@pytest.mark.parametrize("size", SIZES)
def test_a_film_in_four_colours_gives_the_same_square(size):
    """As published: RGBA, thumbnail, pasted with its own alpha on a white square, alpha dropped."""
    film = picture(*size, 0)
    colours = film.convert("RGBA")
    colours.thumbnail((384, 384), Image.Resampling.LANCZOS)
    canvas = Image.new("RGBA", (384, 384), (255, 255, 255, 0))
    canvas.paste(colours, ((384 - colours.width) // 2, (384 - colours.height) // 2), colours)
    np.testing.assert_array_equal(to_square(film, 384, 255, "shrink"), np.asarray(canvas.convert("RGB"))[..., 0])


@pytest.mark.parametrize("size", [(500, 300), (384, 384), (200, 150), (2500, 3000), (2000, 30)])
def test_janus_pro_sees_the_squares_of_its_own_processor(size):
    """`transformers` rounds sides where DeepSeek's processor cuts them off: these sizes come out the same."""
    processor = JanusImageProcessorPil(size={"height": 384, "width": 384}, image_mean=[0.5] * 3, image_std=[0.5] * 3)
    film = picture(*size, 0)
    theirs = processor(film.convert("RGB"), do_rescale=False, do_normalize=False, return_tensors="np").pixel_values
    np.testing.assert_array_equal(to_square(film, 384, 127, "janus"), theirs[0, 0])


def test_janus_pro_cuts_sides_to_whole_pixels():
    square = to_square(Image.new("L", (301, 777), 200), 384, 127, "janus")
    assert (square == 200).sum() == 384 * int(301 / 777 * 384) and (square != 200).sum() == (square == 127).sum()
