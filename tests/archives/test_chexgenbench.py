"""CheXGenBench's table is read, and written for pictures that a model drew."""

import csv

import pytest
from archive_files import picture, table

from archives.chexgenbench import write_generated
from archives.opening import open_source
from common.errors import UserError


def test_chexgenbench_is_read_and_written_back(tmp_path):
    rows = [
        ("p10/s1/a.jpg", "Normal chest.", "{'No Finding': 1.0, 'Edema': nan}"),
        ("p10/s1/b.jpg", 'Edema, "mild".', '{"Edema": -1, "Fracture": null}'),
    ]
    path = tmp_path / "LLAVARAD_ANNOTATIONS_TEST.csv"
    table(path, [("path", "annotated_prompt", "chexpert_labels"), *rows])
    picture(tmp_path / "files/p10/s1/a.jpg")
    picture(tmp_path / "p10/s1/b.jpg")
    for given in (path, tmp_path):
        records = open_source(given, split="all")
        assert records.kind == "chexgenbench" and records.counts == {"test": 2}
        assert [r.image for r in records.records] == ["files/p10/s1/a.jpg", "p10/s1/b.jpg"]
        assert [r.labels for r in records.records] == [{"No Finding": 1}, {"Edema": -1}]
        assert records.text(1) == ('IMPRESSION: Edema, "mild".', 'Edema, "mild".')
    with pytest.raises(UserError, match="2 test"):  # a test table is not trained on by oversight
        open_source(path)

    folder = tmp_path / "generated"
    picture(folder / "SyntheticImg_0.png")
    written = write_generated(folder, ["SyntheticImg_0.png"], ['Edema, "mild".\nNew.'])
    with open(written, newline="") as file:
        assert list(csv.DictReader(file)) == [
            {"synthetic_filename": "SyntheticImg_0.png", "annotated_prompt": 'Edema, "mild".\nNew.'}
        ]
    assert open_source(folder).text(0)[1] == 'Edema, "mild". New.'
    assert sorted(p.name for p in folder.iterdir()) == ["SyntheticImg_0.png", "generations_with_metadata.csv"]
    with pytest.raises(UserError, match="1 images but 0 prompts"):
        write_generated(folder, ["a.png"], [])
