"""DICOM files become grey pictures as the standard says; each step is computed as pydicom computes it."""

import io
import sys

import numpy as np
import pytest
from pydicom import dcmread
from pydicom.pixels import apply_color_lut, apply_modality_lut, apply_voi_lut

from common.errors import UserError
from common.images import load_image
from dicom_files import dicom_bytes, lut

FILM = np.random.default_rng(0).integers(0, 4096, (24, 40)).astype(np.uint16)
FILM[0, :2] = 0, 4095
LINEAR = FILM / 4095 * 255  # its whole range
GAMMA = (np.arange(4096) / 4095) ** 2 * 4095


@pytest.fixture
def grey(tmp_path):
    """Values and fields -> (what we make of the file, what pydicom does: its VOI output, unscaled)."""

    def read(values=FILM, **fields):
        data = dicom_bytes(values, **{"BitsStored": 12, "HighBit": 11, **fields})
        (tmp_path / "film.dcm").write_bytes(data)
        return np.asarray(load_image(tmp_path / "film.dcm")).astype(float), dcmread(io.BytesIO(data))

    return read


def theirs(file, low, high):
    """pydicom's result, from `low`, 0, to `high`, 255."""
    values = apply_voi_lut(apply_modality_lut(file.pixel_array, file), file)
    return (values.astype(float) - low) / (high - low) * 255


@pytest.mark.parametrize(
    ("fields", "low", "high"),
    [
        ({"WindowCenter": 1000.5, "WindowWidth": 2001}, 0, 4095),
        ({"WindowCenter": 2000, "WindowWidth": 1500, "VOILUTFunction": "LINEAR_EXACT"}, 0, 4095),
        ({"WindowCenter": 2000, "WindowWidth": 1500, "VOILUTFunction": "SIGMOID"}, 0, 4095),
        ({"WindowCenter": [500, 40], "WindowWidth": [1001, 400]}, 0, 4095),
        ({"WindowCenter": 0, "WindowWidth": 3000, "RescaleSlope": 2, "RescaleIntercept": -1000}, -1000, 7190),
        ({"VOILUTSequence": [lut(GAMMA, bits=12)]}, 0, 4095),
        ({"VOILUTSequence": [lut(GAMMA, bits=12)], "WindowCenter": 10, "WindowWidth": 20}, 0, 4095),
        ({"VOILUTSequence": [lut(GAMMA[::-1], bits=12)], "RescaleSlope": 1, "RescaleIntercept": 0}, 0, 4095),
        ({"VOILUTSequence": [lut(np.arange(256) * 16, first=1000, bits=12)]}, 0, 4095),
        ({"VOILUTSequence": [lut(GAMMA, bits=16)]}, 0, 4095),  # 16 bits are promised, 12 used
        ({"ModalityLUTSequence": [lut(GAMMA * 16)]}, 0, 65520),
        ({"ModalityLUTSequence": [lut(GAMMA * 16)], "WindowCenter": 30000, "WindowWidth": 20000}, 0, 65535),
    ],
)
def test_every_step_is_pydicoms(grey, fields, low, high):
    ours, file = grey(**fields)
    np.testing.assert_allclose(ours, theirs(file, low, high), atol=1)
    inverted, _ = grey(**fields, PhotometricInterpretation="MONOCHROME1")
    np.testing.assert_allclose(inverted, 255 - ours, atol=1)
    for kind in ("MONOCHROME1", "MONOCHROME2"):  # PS3.3 C.8.11.3 asks for both of a film whose least value is white
        turned, _ = grey(**fields, PhotometricInterpretation=kind, PresentationLUTShape="INVERSE")
        np.testing.assert_array_equal(turned, inverted)


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"RescaleSlope": None, "RescaleIntercept": None},
        {"RescaleSlope": 0, "RescaleIntercept": 0},
        {"RescaleSlope": 2},  # of two that belong together one is missing
        {"WindowCenter": None, "WindowWidth": None, "VOILUTFunction": None},
        {"WindowCenter": 0, "WindowWidth": 0},
        {"WindowCenter": 2000, "WindowWidth": -5},
        {"WindowCenter": [0, 2048], "WindowWidth": [0, 4096]},
        {"WindowCenter": 2048, "WindowWidth": 4096, "VOILUTSequence": [lut([], bits=12)]},
        {"VOILUTSequence": []},
    ],
)
def test_what_is_no_window_is_passed_over(grey, fields):
    """The next one counts, else the range of the pixels."""
    if fields.get("VOILUTSequence"):
        del fields["VOILUTSequence"][0].LUTData
    np.testing.assert_allclose(grey(**fields)[0], LINEAR, atol=1)


def test_a_lut_of_8_bits_may_have_more_than_256_entries(grey):
    """By hand: pydicom's own function counts the entries in 8 bits, too."""
    np.testing.assert_allclose(grey(VOILUTSequence=[lut(GAMMA // 16, bits=8)])[0], GAMMA[FILM] // 16, atol=0.5)


def test_padding_is_black_and_not_in_the_range(grey):
    signed = FILM.astype(np.int16) - 1000
    signed[5:9], signed[9, :6] = -32768, -30000
    wanted = np.where(signed < -1000, 0, LINEAR)
    limits = {"BitsStored": 16, "HighBit": 15, "PixelPaddingValue": -32768, "PixelPaddingRangeLimit": -30000}
    np.testing.assert_allclose(grey(signed, **limits)[0], wanted, atol=1)
    inverted = grey(signed, **limits, PhotometricInterpretation="MONOCHROME1")[0]
    np.testing.assert_allclose(inverted, np.where(signed < -1000, 0, 255 - LINEAR), atol=1)


@pytest.mark.parametrize("size", [1, 4])
def test_a_marker_does_not_make_the_film_black(grey, size):
    marked = FILM.copy()
    marked[4 : 4 + size, 4 : 4 + size] = 65535
    ours = grey(marked, BitsStored=16, HighBit=15)[0]
    np.testing.assert_allclose(ours[8:], LINEAR[8:], atol=1)
    assert ours[4, 4] == 255


def test_a_palette_and_colours_become_grey(grey):
    eight, palette = (FILM >> 4).astype(np.uint8), np.arange(256, dtype=np.uint16) * 257
    fields = {}
    for name, table in zip(("Red", "Green", "Blue"), (palette, palette[::-1], palette // 2), strict=True):
        fields[f"{name}PaletteColorLookupTableDescriptor"] = [256, 0, 16]
        fields[f"{name}PaletteColorLookupTableData"] = table.tobytes()
    ours, file = grey(eight, PhotometricInterpretation="PALETTE COLOR", **fields, BitsStored=8, HighBit=7)
    colours = apply_color_lut(file.pixel_array, file)
    np.testing.assert_allclose(ours, colours / 257 @ [0.299, 0.587, 0.114], atol=1)
    colour = {"PhotometricInterpretation": "RGB", "SamplesPerPixel": 3, "PlanarConfiguration": 0}
    ours = grey(np.stack([eight] * 3, -1), **colour, BitsStored=8, HighBit=7)[0]
    np.testing.assert_allclose(ours, eight, atol=1)
    brightness = np.stack([eight, np.full_like(eight, 128), np.full_like(eight, 128)], -1)  # no colour in it
    colour["PhotometricInterpretation"] = "YBR_FULL"
    np.testing.assert_allclose(grey(brightness, **colour, BitsStored=8, HighBit=7)[0], eight, atol=1)


def test_files_that_are_no_film_are_named(tmp_path, grey, monkeypatch):
    with pytest.raises(UserError, match=r"film\.dcm: .*not one grey picture"):
        grey(np.concatenate([FILM, FILM]), NumberOfFrames=2, Rows=24)
    with pytest.raises(UserError, match=r"film\.dcm: .*too large"):
        grey(Rows=60000, Columns=60000)
    (tmp_path / "a.dcm").write_bytes(b"no image")
    with pytest.raises(UserError, match=r"a\.dcm: broken DICOM"):
        load_image(tmp_path / "a.dcm")
    (tmp_path / "IM0001").write_bytes(dicom_bytes(FILM))  # as on the disc from the hospital
    assert load_image(tmp_path / "IM0001").size == (40, 24)
    monkeypatch.setitem(sys.modules, "pydicom", None)
    with pytest.raises(UserError, match=r"IM0001: .*pip install pydicom"):
        load_image(tmp_path / "IM0001")
