"""DICOM files become grey pictures as the standard says."""

import sys
import types

import numpy as np
import pytest
from archive_files import own

from archives.opening import open_source
from archives.records import load_dicom
from common.errors import UserError


class Dicom(types.SimpleNamespace):
    def get(self, name, default=None):
        return getattr(self, name, default)


def dicom(monkeypatch, **fields):
    values = np.array([[0, 1000], [2000, 4095]], dtype=np.uint16)
    file = Dicom(Rows=2, Columns=2, **{"pixel_array": values, **fields})
    monkeypatch.setitem(sys.modules, "pydicom", types.SimpleNamespace(dcmread=lambda path: file))


def test_dicom_is_rescaled_windowed_and_inverted(tmp_path, monkeypatch):
    root = own(tmp_path / "own", [("a.dcm", "Clear.")], images=False)
    (root / "a.dcm").write_bytes(b"")
    records = open_source(root)
    dicom(monkeypatch, PhotometricInterpretation="MONOCHROME2")
    assert records.image(0).tolist() == [[0, 62], [125, 255]] and records.image(0).dtype == np.uint8
    dicom(monkeypatch, PhotometricInterpretation="MONOCHROME1")
    assert records.image(0).tolist() == [[255, 193], [130, 0]]
    # A window of 1001 values around 500.5 runs from 0 to 1000; here on values of twice what is stored, less 1000.
    dicom(monkeypatch, RescaleSlope="2", RescaleIntercept="-1000", WindowCenter=[500.5, 40], WindowWidth=[1001, 400])
    assert records.image(0).tolist() == [[0, 255], [255, 255]]
    dicom(monkeypatch, WindowCenter="1000.5", WindowWidth="2001")
    assert records.image(0).tolist() == [[0, 128], [255, 255]]
    dicom(monkeypatch, pixel_array=np.zeros((3, 2, 2)))
    with pytest.raises(UserError, match=r"a\.dcm: .*not one grey picture"):
        records.image(0)
    monkeypatch.setitem(sys.modules, "pydicom", None)
    with pytest.raises(UserError, match=r"a\.dcm: .*pip install pydicom"):
        records.image(0)


def test_a_file_that_is_no_dicom_is_named(tmp_path):
    pytest.importorskip("pydicom")
    (tmp_path / "a.dcm").write_bytes(b"no image")
    with pytest.raises(UserError, match=r"a\.dcm: broken DICOM"):
        load_dicom(tmp_path / "a.dcm")
