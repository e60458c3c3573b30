"""An image of any kind becomes grey, and then the square that a model's weights were judged on."""

import json
import os
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file
from transformers import JanusImageProcessorPil

from common.errors import UserError
from common.images import augment, load_image, picture_files, to_square
from dicom_files import dicom_bytes
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


FILM = np.random.default_rng(0).integers(100, 4000, (40, 64)).astype(np.uint16)  # 12 bits
OPAQUE = np.full_like(FILM, 65535)
DEEP = {
    "grey with alpha": (4, (FILM, OPAQUE)),
    "colours": (2, (FILM, FILM, FILM)),
    "colours, with alpha": (6, (FILM, FILM, FILM, OPAQUE)),
    "colours, with an alpha of nothing": (6, (FILM, FILM, FILM, 0 * FILM)),
}


def write_png(path, kind, channels, interlaced=False):
    """A PNG of 16 bits a channel, which Pillow cannot write (PNG specification, section 4)."""
    values = np.stack(channels, -1).astype(">u2")
    places = [(0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1)]
    passes = [values[y::high, x::wide] for y, x, high, wide in (places if interlaced else [(0, 0, 1, 1)])]
    data = b"".join(b"\0" + row.tobytes() for part in passes for row in part)
    header = struct.pack(">2I5B", *values.shape[1::-1], 16, kind, 0, 0, interlaced)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(data)), (b"IEND", b"")]
    body = (struct.pack(">I", len(c)) + n + c + struct.pack(">I", zlib.crc32(n + c)) for n, c in chunks)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(body))


@pytest.mark.parametrize("interlaced", [False, True])
@pytest.mark.parametrize("clothes", DEEP)
def test_a_png_of_16_bits_is_one_film_in_any_clothes(tmp_path, clothes, interlaced):
    write_png(tmp_path / "grey.png", 0, [FILM])
    write_png(tmp_path / "deep.png", *DEEP[clothes], interlaced)
    grey = np.asarray(load_image(tmp_path / "grey.png")).astype(int)
    np.testing.assert_allclose(grey, (FILM - 100) / (FILM.max() - 100) * 255, atol=0.6)
    np.testing.assert_allclose(np.asarray(load_image(tmp_path / "deep.png")), grey, atol=1)


def write_tiff(path, values, order, photometric, planes=1, extra=None, orientation=1):
    """(H, W) or (H, W, C), uncompressed, in strips of ten rows (TIFF 6.0); most of these Pillow cannot write."""
    parts = [values] if planes == 1 else [values[..., c] for c in range(values.shape[2])]
    stored = values.dtype.newbyteorder(order)
    rows = [part[y : y + 10].astype(stored).tobytes() for part in parts for y in range(0, 40, 10)]
    lengths, count = [len(row) for row in rows], values.size // FILM.size
    offsets = [512 + sum(lengths[:n]) for n in range(len(rows))]
    bits, kind = 8 * values.dtype.itemsize, {"u": 1, "i": 2, "f": 3}[values.dtype.kind]
    tags = {256: [64], 257: [40], 258: [bits] * count, 259: [1], 262: [photometric], 273: offsets}
    tags |= {274: [orientation], 277: [count], 278: [10], 279: lengths, 284: [planes]}
    tags |= ({338: [extra]} if extra is not None else {}) | {339: [kind] * count}
    head, more = b"MM\0*\0\0\0\x08" if order == ">" else b"II*\0\x08\0\0\0", b""
    head += struct.pack(order + "H", len(tags))
    for tag, numbers in tags.items():
        data = struct.pack(f"{order}{len(numbers)}I", *numbers)
        head += struct.pack(order + "HHI", tag, 4, len(numbers))
        head += data if len(data) == 4 else struct.pack(order + "I", 256 + len(more))
        more += data if len(data) > 4 else b""
    path.write_bytes(head.ljust(256, b"\0") + more.ljust(256, b"\0") + b"".join(rows))


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("kind", ["colours", "white is zero", "compressed white is zero", "float", "alpha of nothing"])
def test_other_deep_films_and_masks_of_nothing(tmp_path, kind, order):
    path, expected = tmp_path / "film.tif", (FILM - 100.0) / (FILM.max() - 100) * 255
    if kind == "colours":
        write_tiff(path, np.stack([FILM] * 3, -1), order, photometric=2)
    elif kind == "white is zero":
        write_tiff(path, 65535 - FILM, order, photometric=0)
    elif kind == "compressed white is zero":
        Image.fromarray(65535 - FILM).save(path, tiffinfo={262: 0}, compression="tiff_lzw")
    elif kind == "float":
        values = FILM / np.float32(4095)
        values[3, 5:8], expected[3, 5:8] = (np.inf, -np.inf, np.nan), (255, 0, 0)
        Image.fromarray(values).save(path)
    else:
        eight = np.uint8(expected.round())
        Image.merge("RGBA", [*[Image.fromarray(eight)] * 3, Image.new("L", (64, 40), 0)]).save(path)
    np.testing.assert_allclose(np.asarray(load_image(path)), expected, atol=1)


SHARE = np.random.default_rng(1).integers(1, 65536, FILM.shape).astype(np.uint16)  # an alpha
MASKED = FILM * (SHARE / 65535)
COLOURS = np.stack([FILM, FILM, FILM], -1)
TIFFS = {  # name -> (values, photometric, ExtraSamples, planes, the film)
    "float64": (FILM / 4095.0, 1, None, 1, FILM),
    "float16": ((FILM // 4).astype(np.float16), 1, None, 1, FILM // 4),
    "float32, white is zero": (-FILM.astype(np.float32), 0, None, 1, FILM),
    "float colours": (COLOURS / np.float32(4095), 2, None, 1, FILM),
    "uint32 above 2^31": (FILM * np.uint32(2**20), 1, None, 1, FILM),
    "int16": (FILM.astype(np.int16) - np.int16(2000), 1, None, 1, FILM),
    "int8": ((FILM // 16).astype(np.uint8).view(np.int8) ^ np.int8(-128), 1, None, 1, FILM // 16),
    "colours in planes": (COLOURS, 2, None, 2, FILM),
    "grey with alpha": (np.stack([FILM, SHARE], -1), 1, 2, 1, MASKED),
    "grey with alpha of 8 bits": (np.stack([FILM // 16, SHARE // 257], -1).astype(np.uint8), 1, 2, 1, None),
    "grey with an alpha of nothing": (np.stack([FILM, 0 * FILM], -1), 1, 2, 1, FILM),
    "grey with a channel of no alpha": (np.stack([FILM, SHARE], -1), 1, 0, 1, FILM),
    "colours with alpha": (np.dstack([COLOURS, SHARE]), 2, 2, 1, MASKED),
    "colours with alpha in them": (np.dstack([COLOURS, SHARE]), 2, 1, 1, FILM),
    "float colours with alpha": (np.dstack([COLOURS, SHARE]) / np.float32(65535), 2, 2, 1, MASKED),
}


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("name", TIFFS)
def test_tiffs_that_pillow_cannot_read_are_films(tmp_path, name, order):
    values, photometric, extra, planes, film = TIFFS[name]
    film = FILM // 16 * (SHARE // 257 / 255) if film is None else film.astype(np.float64)
    expected = (film - film.min()) / (film.max() - film.min()) * 255
    for orientation in (1, 3):
        write_tiff(tmp_path / "film.tif", values, order, photometric, planes, extra, orientation)
        grey = np.asarray(load_image(tmp_path / "film.tif"))
        np.testing.assert_allclose(grey if orientation == 1 else grey[::-1, ::-1], expected, atol=1)


def test_a_compressed_film_of_unsigned_numbers_is_no_negative(tmp_path):
    path, film = tmp_path / "film.tif", FILM * np.uint32(2**20)
    Image.fromarray(film.view(np.int32)).save(path, compression="tiff_lzw")
    signed, unsigned = (struct.pack("<HHIHH", 339, 3, 1, kind, 0) for kind in (2, 1))
    assert signed in path.read_bytes()
    path.write_bytes(path.read_bytes().replace(signed, unsigned))
    expected = (FILM - 100.0) / (FILM.max() - 100) * 255
    np.testing.assert_allclose(np.asarray(load_image(tmp_path / "film.tif")), expected, atol=1)


@pytest.mark.parametrize(("planes", "extra"), [(2, 2), (1, 1)])
def test_compressed_deep_colours_that_pillow_reads_by_half_are_refused(tmp_path, planes, extra):
    """Here they are only called compressed: Pillow must not get to the pixels."""
    path = tmp_path / "film.tif"
    write_tiff(path, np.dstack([COLOURS, SHARE]), "<", 2, planes, extra)
    plain, lzw = (struct.pack("<HHII", 259, 4, 1, kind) for kind in (1, 5))
    assert plain in path.read_bytes()
    path.write_bytes(path.read_bytes().replace(plain, lzw))
    with pytest.raises(UserError, match=r"film\.tif: broken image \(deep colours in planes"):
        load_image(path)


@pytest.mark.parametrize("ending", ["jp2", "j2k"])
def test_jpeg_2000_of_deep_colours_is_refused_and_other_depths_are_read(tmp_path, ending):
    """Pillow makes 8 bits of them. Here they are only called deep, in the file's header: bits less one."""
    path, grey = tmp_path / f"film.{ending}", (np.arange(64 * 64).reshape(64, 64) * 16).astype(np.uint16)
    Image.fromarray(grey).save(path)
    np.testing.assert_allclose(np.asarray(load_image(path)), grey / grey.max() * 255, atol=1)
    colours = (grey >> 8).astype(np.uint8)
    Image.fromarray(np.dstack([colours] * 3)).save(path)
    np.testing.assert_allclose(np.asarray(load_image(path)), colours, atol=1)
    data = bytearray(path.read_bytes())
    data[data.index(b"ihdr") + 14 if ending == "jp2" else data.index(b"\xff\x4f\xff\x51") + 42] = 15
    path.write_bytes(data)
    with pytest.raises(UserError, match=r"broken image \(deep colours"):
        load_image(path)


@pytest.mark.parametrize("most", [4095, 65535])
@pytest.mark.parametrize("plain", [False, True])
def test_a_ppm_of_deep_colours_is_the_film_of_its_pgm(tmp_path, most, plain):
    for name, values, kind in (("film.pgm", FILM, 5), ("film.ppm", COLOURS, 6)):
        data = values.astype(">u2").tobytes() if not plain else " ".join(map(str, values.ravel())).encode()
        (tmp_path / name).write_bytes(f"P{kind - 3 * plain} 64 40 {most}\n".encode() + data)
    grey = np.asarray(load_image(tmp_path / "film.pgm"))
    np.testing.assert_allclose(np.asarray(load_image(tmp_path / "film.ppm")), grey, atol=1)
    np.testing.assert_allclose(grey, (FILM - 100.0) / (FILM.max() - 100) * 255, atol=1)


@pytest.mark.parametrize("ending", ["jpg", "png", "tif", "webp", "png of 16 bits"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_film_stands_as_its_exif_says(tmp_path, ending, orientation):
    """Turned by hand: where (row, column) of the upright film lies in the file (EXIF 2.3, tag 274)."""
    upright = np.kron(np.array([[40, 100, 160], [200, 255, 0]]), np.ones((32, 32))).astype(np.uint8)
    stored = upright if orientation < 5 else upright.T
    across, down = {2: (1, 0), 3: (1, 1), 4: (0, 1), 6: (0, 1), 7: (1, 1), 8: (1, 0)}.get(orientation, (0, 0))
    stored = stored[:: 1 - 2 * down, :: 1 - 2 * across]
    exif = Image.Exif()
    exif[274] = orientation
    image = Image.fromarray(stored * np.uint16(257) if "16" in ending else stored)
    path = tmp_path / f"film.{ending[:4].strip()}"
    image.save(path, exif=exif, quality=95) if ending in ("jpg", "webp") else image.save(path, exif=exif)
    np.testing.assert_allclose(np.asarray(load_image(path)), upright, atol=12)


def test_a_marker_does_not_make_the_film_dark(tmp_path):
    marked = FILM.copy()
    marked[2:6, 3:9] = 65535
    Image.fromarray(marked).save(tmp_path / "marked.png")
    grey = np.asarray(load_image(tmp_path / "marked.png"))
    np.testing.assert_allclose(grey[8:], ((FILM - 100) / (FILM.max() - 100) * 255)[8:], atol=1)
    assert (grey[2:6, 3:9] == 255).all()


@pytest.mark.parametrize("ending", ["eps", "dds", "psd", "qoi", "ico"])
def test_only_formats_that_films_come_in_are_opened(tmp_path, ending):
    """EPS is a program, and the others break in ways of their own; here they are called .png."""
    heads = {
        "eps": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n",
        "psd": b"8BPS\0\1" + bytes(20),
        "qoi": b"qoif",
    }
    path = tmp_path / "film.png"
    if ending in heads:
        path.write_bytes(heads[ending] + bytes(50))
    else:
        Image.new("RGB", (16, 16)).save(path, format=ending)
    with pytest.raises(UserError, match=r"film\.png: not an image, or of a kind"):
        load_image(path)


@pytest.mark.parametrize("ending", ["png", "jpg", "tif", "webp", "bmp", "gif", "jp2", "dcm"])
def test_damage_is_one_line_that_names_the_file(tmp_path, ending):
    """Whatever a decoder raises; what can be read in spite of the damage is a film."""
    path = tmp_path / f"film.{ending}"
    if ending == "dcm":
        path.write_bytes(dicom_bytes(FILM))
    else:
        Image.fromarray(FILM.astype(np.uint8)).save(path)
    whole, rng = path.read_bytes(), np.random.default_rng(0)
    for _ in range(60):
        damaged = bytearray(whole[: rng.integers(20, len(whole))])
        for place in rng.integers(0, min(300, len(damaged)), 4):
            damaged[place] = rng.integers(256)
        path.write_bytes(damaged)
        try:
            assert load_image(path).mode == "L"
        except UserError as error:
            assert str(error).startswith(str(path)) and "\n" not in str(error)


def test_a_colour_space_without_grey_is_named(tmp_path):
    Image.new("LAB", (8, 8)).save(tmp_path / "lab.tif")
    with pytest.raises(UserError, match=r"lab\.tif: broken image \(conversion from LAB to .* not supported"):
        load_image(tmp_path / "lab.tif")


@pytest.mark.parametrize("name", ["x.png", "x.dcm"])
def test_a_pipe_is_not_waited_for(tmp_path, name):
    os.mkfifo(tmp_path / name)
    with pytest.raises(UserError, match=r"x\....: not a file"):
        load_image(tmp_path / name)


def test_hidden_pictures_are_none_and_links_may_go_in_circles(tmp_path):
    for name in ("a.png", "._a.png", ".ipynb_checkpoints/a.png", "sub/B.DCM", "notes.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "sub/round").symlink_to(tmp_path)
    assert picture_files(tmp_path) == [tmp_path / "a.png", tmp_path / "sub/B.DCM"]


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
