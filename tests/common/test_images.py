"""An image of any kind becomes grey, and then the square that a model's weights were judged on."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file
from transformers import JanusImageProcessorPil

from common.errors import UserError
from common.images import augment, load_image, to_square
from phantoms.dataset import Phantoms

GOLDEN = Path(__file__).parent.parent / "golden"
EXPECTED = load_file(GOLDEN / "reading_pixels_expected.safetensors")
GRADIENT = np.linspace(0, 1, 64)[None].repeat(40, axis=0)
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


@pytest.mark.parametrize("kind", ["8 bit", "16 bit", "float", "RGB", "RGBA", "palette", "1 bit"])
def test_any_image_becomes_8_bit_grey(tmp_path, kind):
    eight = Image.fromarray((GRADIENT * 255).astype(np.uint8))
    image = {
        "8 bit": lambda: eight,
        "16 bit": lambda: Image.fromarray((GRADIENT * 40000).astype(np.uint16)),
        "float": lambda: Image.fromarray(GRADIENT.astype(np.float32)),
        "RGB": lambda: eight.convert("RGB"),
        "RGBA": lambda: eight.convert("RGBA"),
        "palette": lambda: eight.quantize(64),
        "1 bit": lambda: eight.convert("1"),
    }[kind]()
    path = tmp_path / ("image.tiff" if kind == "float" else "image.png")
    image.save(path)
    grey = load_image(path)
    assert grey.mode == "L" and grey.size == (64, 40)
    values = np.asarray(grey).astype(int)
    assert values[:, :8].mean() < 40 and values[:, -8:].mean() > 215


@pytest.mark.parametrize("size", [(1, 1), (20000, 3), (3, 500), (128, 128)])
def test_squares_keep_the_aspect_and_pad_with_black(size):
    square = to_square(Image.new("L", size, 200), 64)
    assert square.shape == (64, 64)
    width, height = (max(1, round(side * 64 / max(size))) for side in size)
    assert (square == 200).sum() == width * height and (square == 0).sum() == 64 * 64 - width * height


@pytest.mark.parametrize("kind", ["absent", "text", "truncated", "empty", "folder"])
def test_a_file_that_is_no_image_is_named(tmp_path, kind):
    path = tmp_path / "image.png"
    if kind == "text":
        path.write_text("FINDINGS: none")
    elif kind == "truncated":
        Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64), np.uint8)).save(path)
        path.write_bytes(path.read_bytes()[:2000])
    elif kind == "empty":
        path.write_bytes(b"")
    elif kind == "folder":
        path.mkdir()
    with pytest.raises(UserError, match=r"image\.png"):
        load_image(path)


def test_a_jpeg_decoded_at_reduced_scale_looks_the_same(tmp_path):
    drawn = Image.fromarray(Phantoms(1, 512).image(0)).resize((1900, 1500), Image.Resampling.BICUBIC)
    noise = np.random.default_rng(0).normal(0, 4, (1500, 1900))
    Image.fromarray((np.asarray(drawn) + noise).clip(0, 255).astype(np.uint8)).save(tmp_path / "x.jpg", quality=92)
    reduced, whole = load_image(tmp_path / "x.jpg", size=384), load_image(tmp_path / "x.jpg")
    assert reduced.size == (475, 375) and whole.size == (1900, 1500)
    squares = [to_square(image, 384).astype(int) for image in (reduced, whole)]
    assert np.abs(squares[0] - squares[1]).max() <= 3


def test_a_film_is_varied_a_little_and_never_flipped():
    """By the moments of what is bright: a wedge that is heavy on the left stays so."""
    film = np.zeros((64, 64), np.uint8)
    film[16:48, 8:40] = 220 - 5 * np.arange(32)
    rng = np.random.default_rng(0)
    varied = [augment(film, rng) for _ in range(200)]
    assert len({each.tobytes() for each in varied}) == 200
    heavy = []
    for each in varied:
        inside = np.flatnonzero(each.max(axis=0) > 20)
        centre = (each.sum(axis=0) * np.arange(64)).sum() / each.sum()
        heavy.append((inside[0] + inside[-1]) / 2 - centre)
        assert each[[0, -1], [0, -1]].max() == 0  # black around the film stays black
        assert 0.7 < (each > 20).sum() / (film > 20).sum() < 1.3
    assert min(heavy) > 0
    assert np.array_equal(augment(film, np.random.default_rng(1)), augment(film, np.random.default_rng(1)))
