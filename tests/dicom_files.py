"""Small DICOM files, made for a test."""

import numpy as np
import pytest

pydicom = pytest.importorskip("pydicom")


def lut(entries, first=0, bits=16):
    """A lookup table as an item of its sequence."""
    item = pydicom.Dataset()
    item.LUTDescriptor, item.LUTData = [len(entries) % 2**16, first, bits], np.asarray(entries, np.uint16).tobytes()
    item["LUTData"].VR = "OW"
    return item


def dicom_bytes(values, **fields):
    """(H, W) or (H, W, 3), uint8, uint16 or int16 -> a file with these fields beside what every film has."""
    file, bits = pydicom.Dataset(), 8 * values.dtype.itemsize
    file.Rows, file.Columns = values.shape[:2]
    file.SamplesPerPixel, file.PhotometricInterpretation = 1, "MONOCHROME2"
    file.BitsAllocated, file.BitsStored, file.HighBit = bits, bits, bits - 1
    file.PixelRepresentation = int(values.dtype.kind == "i")
    for name, value in fields.items():
        setattr(file, name, value)
    file.PixelData = values.tobytes()
    file["PixelData"].VR = "OW"
    stream = pydicom.filebase.DicomBytesIO()
    stream.is_little_endian, stream.is_implicit_VR = True, True
    pydicom.filewriter.write_dataset(stream, file)
    # Implicit VR Little Endian, the default of the standard (PS3.5, section 10), said in the file's own header.
    syntax = b"\2\0\x10\0UI\x12\0" + b"1.2.840.10008.1.2\0"
    return bytes(128) + b"DICM" + b"\2\0\0\0UL\4\0" + len(syntax).to_bytes(4, "little") + syntax + stream.getvalue()
