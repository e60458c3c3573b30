"""Image files -> grey pixels: opened, converted, padded to a square. Needs no torch."""

import os
import re
import sys
import warnings
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image, ImageOps, TiffImagePlugin, UnidentifiedImageError

from common.errors import UserError

MAX_PIXELS = 100_000_000  # a decompression bomb is not an X-ray
# What films come in. Others of Pillow's formats hold programs (EPS), or break in ways of their own.
FORMATS = ("PNG", "JPEG", "TIFF", "JPEG2000", "WEBP", "BMP", "GIF", "PPM")
DICOM = (".dcm", ".dicom")
ENDINGS = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".jp2", ".webp", ".bmp", ".gif", ".pgm", *DICOM)
SCALINGS = ("fit", "shrink", "janus")  # of `to_square`

# Of colours of 16 bits Pillow keeps one byte: the first or the last, as the byte order in its name for them says (Big,
# Little, or N, this computer's own). The other order's name gives the other byte. Grey with alpha comes as four bytes.
OTHER = {"B": "L", "L": "B", "N": "B" if sys.byteorder == "little" else "L"}
LOW_BYTES = {f"{mode};16{order}": f"{mode};16{OTHER[order]}" for mode in ("RGB", "RGBA", "RGBX") for order in OTHER}
LOW_BYTES["LA;16B"] = "RGBA"
TiffImagePlugin.OPEN_INFO[b"MM", 0, (1,), 1, (16,), ()] = ("I;16B", "I;16B")  # as for "II": white is zero
DEEP_JP2 = re.compile(rb"\A(?:.{4}jP  .{0,60}ihdr.{10}|\xff\x4f\xff\x51.{38})[^\0-\7\x80-\x87]", re.DOTALL)  # its depth
LUMA = np.array([0.299, 0.587, 0.114], dtype=np.float32)  # of Pillow's convert("L")

warnings.filterwarnings("ignore", module=r"PIL|pydicom|common\.images")  # of what is odd in a film and can yet be read


def picture_files(root: Path) -> list[Path]:
    """The pictures under `root`, sorted. Links are followed, and may lead round in circles.

    Hidden files and folders are left out: a Mac writes ._x.png beside x.png, Jupyter .ipynb_checkpoints.
    """
    found, seen = [], set()
    for folder, folders, names in os.walk(root, followlinks=True):
        here = os.path.realpath(folder)
        folders[:] = [] if here in seen else sorted(name for name in folders if name[0] != ".")
        pictures = [Path(folder, name) for name in names if name.lower().endswith(ENDINGS) and name[0] != "."]
        found += [] if here in seen else pictures
        seen.add(here)
    return sorted(found)


def load_image(path: str | Path, size: int | None = None) -> Image.Image:
    """A film in one of FORMATS or in DICOM, of any depth -> an 8-bit grey image. Raises UserError naming the file.

    size: px that its longer side will be resized to; a JPEG may then come at the smallest of 1, 1/2, 1/4, 1/8 of its
    own scale that is still larger. That halves the time and moves no grey value of the result by more than 2 of 255.
    """
    if os.path.exists(path) and not os.path.isfile(path):  # a pipe or a device could be read for ever
        raise UserError(f"{path}: not a file; give a PNG, JPEG, TIFF or DICOM")
    kind = "image"
    try:
        with open(path, "rb") as file:
            if file.read(132)[128:] == b"DICM" or str(path).lower().endswith(DICOM):
                kind = "DICOM"
            file.seek(0)
            return read_dicom(file) if kind == "DICOM" else read_picture(file, size)
    except UserError:
        raise
    except (FileNotFoundError, PermissionError) as error:
        raise UserError(f"{path}: no such image, or none that may be read ({error.strerror})") from error
    except (UnidentifiedImageError, Image.DecompressionBombError) as error:
        raise UserError(f"{path}: not an image, or of a kind not read here; give a PNG, JPEG or TIFF") from error
    except Exception as error:  # decoders raise what they like, and a run must learn which file it was
        reason = " ".join(str(error).split())[:300]
        raise UserError(f"{path}: broken {kind} ({reason}); export it again, as PNG") from error


def check_size(file: BinaryIO, width: int, height: int) -> None:
    if width * height > MAX_PIXELS:
        raise UserError(f"{file.name}: {width} x {height} pixels is too large; reduce it first")


def read_picture(file: BinaryIO, size: int | None) -> Image.Image:
    """As `load_image`, by Pillow."""
    if (grey := deep_tiff(file)) is not None:
        return grey
    image = Image.open(file, formats=FORMATS)  # of a path it would map a turned TIFF wrongly (Pillow 12)
    check_size(file, *image.size)
    tags = getattr(image, "tag_v2", {})  # of a TIFF
    kind, _, start, layout = image.tile[0] if image.tile else ("", 0, 0, "")
    layout = layout if isinstance(layout, tuple) else (layout,)  # Pillow's name of it comes first
    halved = image.mode[0] in "RC" and layout[0][-4:-1] == ";16" and layout[0] not in LOW_BYTES
    file.seek(0)
    halved |= image.mode[0] != "I" and bool(DEEP_JP2.search(file.read(100)))  # of grey alone Pillow makes "I;16"
    if halved or (tags.get(284) == 2 and max(tags[258]) > 8):  # of the second Pillow makes noise
        raise ValueError("deep colours in planes of their own, in JPEG 2000, or compressed with alpha")
    if image.format == "PPM" and image.mode == "RGB" and kind != "raw" and layout[1] > 255:
        file.seek(start)
        count = image.width * image.height * 3
        data = file.read(8 * count)
        values = np.array(data.split() if kind == "ppm_plain" else np.frombuffer(data, ">u2", count), np.float32)
        return Image.fromarray(grey_of(values[:count].reshape(image.height, image.width, 3)))
    if size is not None:
        share = size / max(image.size)
        image.draft("L", tuple(max(1, round(side * share)) for side in image.size))
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith(("I", "F")):
        values = np.asarray(image)
        if tags.get(258) == (32,) and tags.get(339, (1,)) == (1,):
            values = values.view(np.uint32)  # which Pillow takes for signed
        values = values.astype(np.float32)
        return Image.fromarray(stretch(-values if tags.get(262) == 0 else values))  # WhiteIsZero; of 8 bits it is done
    if layout[0] not in LOW_BYTES:
        if image.mode in ("RGBA", "LA", "PA", "P"):  # transparent parts become black, as outside the collimator
            image = image.convert("RGBA")
            if image.getchannel("A").getextrema() != (0, 0):  # else it is no mask
                image = Image.alpha_composite(Image.new("RGBA", image.size, "black"), image)
        return image.convert("L")
    low = Image.open(file, formats=FORMATS)
    low.tile = [tile._replace(args=(LOW_BYTES[layout[0]], *layout[1:])) for tile in low.tile]
    low = np.asarray(ImageOps.exif_transpose(low))
    if layout[0] == "LA;16B":  # both bytes of the grey value, both of alpha
        low = low[..., [1, 1, 1, 3]]
    return Image.fromarray(grey_of(np.asarray(image) * np.float32(256) + low, 65535))


def deep_tiff(file: BinaryIO) -> Image.Image | None:
    """A TIFF of uncompressed values that are no plain bytes, many of which Pillow cannot read; else None."""
    head = file.read(8)
    file.seek(0)
    if head[:4] not in (b"II*\0", b"MM\0*"):
        return None
    tags = TiffImagePlugin.ImageFileDirectory_v2(head)
    file.seek(tags.next)
    tags.load(file)
    file.seek(0)
    bits, kind, count = tags.get(258, (1,))[0], tags.get(339, (1,))[0], tags.get(277, 1)
    plain = bits <= 8 and kind == 1 and count != 2
    if plain or bits % 8 or tags.get(259, 1) != 1 or tags.get(262) not in (0, 1, 2) or 273 not in tags:
        return None
    width, height = tags[256], tags[257]
    check_size(file, width, height)
    if sum(tags[279]) > 2 * width * height * count * bits // 8:  # each might be the whole file
        raise ValueError("more bytes than pixels")
    strips = [file.read(length) for at, length in zip(tags[273], tags[279], strict=True) if file.seek(at)]
    order, number = "<" if head[0] == 73 else ">", {1: "u", 2: "i", 3: "f"}[kind]
    values = np.frombuffer(b"".join(strips), f"{order}{number}{bits // 8}", width * height * count)
    planes = values.reshape(count, height, width).transpose(1, 2, 0)
    values = (planes if tags.get(284) == 2 else values.reshape(height, width, count)).astype(np.float32)
    masked = tags.get(338, (2,))[0] == 2  # else the last channel is none, or is in the colours already
    grey = grey_of(-values if tags[262] == 0 else values, (1 if kind == 3 else 2.0**bits - 1) if masked else None)
    image = Image.fromarray(grey)
    image.getexif()[274] = tags.get(274, 1)
    return ImageOps.exif_transpose(image)


def grey_of(values: np.ndarray, opaque: float | None = None) -> np.ndarray:
    """(H, W, 1 to 4): grey or colours, then perhaps alpha, of which `opaque` is the most -> (H, W) uint8, stretched."""
    count = values.shape[2]
    grey = values[..., :3] @ LUMA if count > 2 else values[..., 0]
    if opaque and count in (2, 4) and values[..., -1].any():  # else it is no mask
        grey = grey * (values[..., -1] / np.float32(opaque))
    return stretch(grey)


def stretch(values: np.ndarray) -> np.ndarray:
    """Grey values of any range -> uint8, the darkest 0 and the brightest 255; what is nan becomes 0.

    A marker is neither: a value that lies further outside of the middle 96 % of the pixels than these are wide.
    """
    film = values[np.isfinite(values)]
    if not film.size:
        return np.zeros(values.shape, np.uint8)
    low, high = np.percentile(film[:: 1 + film.size // 100_000], (2, 98))
    if low < high:
        film = film[(film >= 2 * low - high) & (film <= 2 * high - low)]
    return scale(values, film.min(), film.max())


def scale(values: np.ndarray, low: float, high: float) -> np.ndarray:
    """Grey values -> uint8: from `low`, 0, to `high`, 255; nan becomes 0."""
    grey = (values - np.float32(low)) * np.float32(255 / max(high - low, 1e-6))
    return np.nan_to_num(grey.clip(0, 255).round()).astype(np.uint8)


# ---- DICOM -------------------------------------------------------------------------------------------------------


def read_dicom(file: BinaryIO) -> Image.Image:
    """One film -> its grey values as the standard has them displayed (PS3.4 N.2), by pydicom's own functions.

    Rescaled, then through the VOI LUT or the first window that is one; without either stretched. Padding is black.
    """
    try:
        import pydicom
        from pydicom import pixels
    except ImportError as error:
        raise UserError(f"{file.name}: reading DICOM needs pydicom (the extra `dicom`); pip install pydicom") from error
    film = pydicom.dcmread(file)
    check_size(file, int(film.Columns), int(film.Rows) * int(film.get("NumberOfFrames") or 1))
    stored, kind = film.pixel_array, film.PhotometricInterpretation
    if kind == "PALETTE COLOR":
        stored = pixels.apply_color_lut(stored, film)
    if kind == "PALETTE COLOR" or film.get("SamplesPerPixel") == 3:  # of YBR pydicom makes RGB
        bits = film.RedPaletteColorLookupTableDescriptor[2] if kind == "PALETTE COLOR" else film.BitsStored
        return Image.fromarray(scale(stored[..., :3] @ LUMA, 0, 2**bits - 1))
    if stored.ndim != 2:
        raise UserError(f"{file.name}: {stored.shape} values are not one grey picture; export a single frame")

    for name, default in (("RescaleSlope", 1), ("RescaleIntercept", 0), ("VOILUTFunction", "LINEAR")):
        if not film.get(name):  # empty, or a slope of 0
            setattr(film, name, default)
    values = pixels.apply_modality_lut(stored, film)
    padding = np.zeros(stored.shape, bool)
    if (first := film.get("PixelPaddingValue")) is not None:
        last = film.get("PixelPaddingRangeLimit")
        ends = np.array([first, first if last is None else last]).astype(stored.dtype)  # 63536 is -2000 in 16 bits
        padding = (stored >= ends.min()) & (stored <= ends.max())
    lut = (film.get("VOILUTSequence") or [{}])[0]
    given = zip(*(np.ravel(film.get(name)) for name in ("WindowCenter", "WindowWidth")), strict=False)
    least = 1 if film.VOILUTFunction.upper() == "LINEAR" else 1e-6  # a window of less is none
    windows = [i for i, (center, width) in enumerate(given) if None not in (center, width) and width >= least]
    if lut.get("LUTData") is not None and lut.get("LUTDescriptor") is not None:
        entries, first, bits = lut.LUTDescriptor
        lut.LUTDescriptor = [entries, first, max(bits, 10)]  # pydicom counts its entries in 8 bits, if they have 8
        most = pixels.apply_voi(np.arange(entries or 2**16) + first, film).max()
        grey = scale(pixels.apply_voi(values, film), 0, 2 ** int(most).bit_length() - 1)
    elif windows:
        low, high = pixels.apply_windowing(np.array([-1e12, 1e12]), film, windows[0])
        grey = scale(pixels.apply_windowing(values, film, windows[0]), low, high)
    else:
        grey = stretch(np.where(padding, np.nan, values))
    turned = kind == "MONOCHROME1" or film.get("PresentationLUTShape") == "INVERSE"  # one statement in two places
    grey = 255 - grey if turned else grey
    return Image.fromarray(np.where(padding, 0, grey).astype(np.uint8))


# ---- squares -----------------------------------------------------------------------------------------------------


def to_square(image: Image.Image, size: int, padding: int = 0, scaling: str = "fit") -> np.ndarray:
    """Grey image of any shape -> (size, size) uint8: aspect ratio kept, in the middle of a square (section 4.1).

    padding: grey value of what is left of the square. scaling, one of SCALINGS:
    "fit"     as large as the square allows, bicubic
    "shrink"  never larger than it is, Lanczos: what UniX's published evaluation shows to its model
    "janus"   as "fit", with sides cut to whole pixels and at least 14 of them: Janus-Pro's own processor
    """
    if scaling == "shrink":
        resized = image.convert("LA")  # as published, with an alpha channel: Pillow 12 shrinks a bare "L" otherwise
        resized.thumbnail((size, size), Image.Resampling.LANCZOS)
        resized = resized.getchannel("L")
    else:
        longest = max(image.size)
        if scaling == "fit":
            width, height = (max(1, round(side * (size / longest))) for side in image.size)
        else:
            width, height = (max(min(14, size), int(side / longest * size)) for side in image.size)
        resized = image if image.size == (width, height) else image.resize((width, height), Image.Resampling.BICUBIC)
    square = Image.new("L", (size, size), padding)
    square.paste(resized, ((size - resized.width) // 2, (size - resized.height) // 2))
    return np.array(square)  # a copy: torch wants memory it may write to


def augment(square: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The same chest, filmed again: (S, S) uint8 -> the same shape. For reading only; a drawing would learn to tilt.

    Turned by up to 7 degrees, shifted by up to 5 % of the side, scaled by up to 10 %, exposed by another curve (gamma
    0.8 to 1.25, so black stays black). Never flipped: the heart lies on one side, and "left" in the report would be
    wrong.
    """
    side = square.shape[0]
    angle = np.deg2rad(rng.uniform(-7, 7))
    shift, scale = rng.uniform(-0.05, 0.05, 2) * side, rng.uniform(0.9, 1.1)
    turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]]) / scale
    centre = np.full(2, (side - 1) / 2)
    origin = centre - turn @ (centre + shift)  # Pillow wants where each pixel of the result comes from
    affine = (*turn[0], origin[0], *turn[1], origin[1])
    gamma = np.exp(rng.uniform(-1, 1) * np.log(1.25))
    image = Image.fromarray(square).transform((side, side), Image.Transform.AFFINE, affine, Image.Resampling.BILINEAR)
    return np.array(image.point([round(255 * (grey / 255) ** gamma) for grey in range(256)]))
