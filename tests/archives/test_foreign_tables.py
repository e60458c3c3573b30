"""Tables that others publish: CheXGenBench, which is also written, ChestX-ray14, and Kaggle's Open-i."""

import csv

import pytest
from archive_files import picture, table

from archives.foreign import write_generated
from archives.opening import open_source
from archives.records import Record
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


def test_chest_xray14_has_pictures_labels_and_an_official_split(tmp_path):
    """Its header as published, with commas inside of brackets and one behind the last column."""
    columns = "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,View Position"
    header = f"{columns},OriginalImage[Width,Height],OriginalImagePixelSpacing[x,y],".split(",")
    rest = ("PA", 2682, 2749, 0.143, 0.143, "")
    rows = [
        ("1_0.png", "Cardiomegaly|Effusion", 0, 1, "058Y", "M", *rest),
        ("2_0.png", "No Finding", 0, 2, "1Y", "F", *rest),
    ]
    table(tmp_path / "Data_Entry_2017.csv", [header, *rows])
    table(tmp_path / "BBox_List_2017.csv", [("Image Index", "Finding Label", "Bbox [x", "y", "w", "h]")])
    picture(tmp_path / "images_001/images/1_0.png")
    picture(tmp_path / "images_012/images/2_0.png")
    first, second = open_source(tmp_path).records
    assert first == Record(
        "images_001/images/1_0.png",
        "Cardiomegaly is present. Pleural effusion is present.",
        "Cardiomegaly. Pleural effusion.",
        labels={"Cardiomegaly": 1, "Pleural Effusion": 1},
        patient="1",
        view="PA",
    )
    assert second.image == "images_012/images/2_0.png" and second.labels == {"No Finding": 1}
    (tmp_path / "test_list.txt").write_text("2_0.png\n")
    source = open_source(tmp_path)
    assert source.kind == "nih" and len(source) == 1 and source.counts == {"train": 1, "test": 1}


def test_kaggles_open_i_is_joined_by_uid(tmp_path):
    columns = ("uid", "MeSH", "Problems", "image", "indication", "comparison", "findings", "impression")
    reports = [
        (1, "normal", "normal", "Xray Chest PA and Lateral", "TB", "None.", "Clear lungs.", "Normal."),
        (2, "Cardiomegaly/borderline;Pleural Effusion/left", "-", "Chest", "", "", "", "Effusion."),
        (3, "normal", "normal", "Chest", "", "", "", ""),
    ]
    table(tmp_path / "indiana_reports.csv", [columns, *reports])
    with pytest.raises(UserError, match=r"indiana_projections\.csv: cannot be read"):
        open_source(tmp_path)
    films = [(1, "1_IM-0001-4001.dcm.png", "Frontal"), (1, "1_IM-0001-3001.dcm.png", "Lateral")]
    films += [(2, "2_IM-0652-1001.dcm.png", "Frontal"), (3, "3_IM-1384-1001.dcm.png", "Frontal")]
    table(tmp_path / "indiana_projections.csv", [("uid", "filename", "projection"), *films])
    for _, name, _ in films:
        picture(tmp_path / "images/images_normalized" / name)
    source = open_source(tmp_path)
    folder = "images/images_normalized"
    assert source.kind == "kaggle" and source.records == [
        Record(
            f"{folder}/{films[0][1]}",
            "Clear lungs.",
            "Normal.",
            "train",
            {"No Finding": 1},
            "1",
            "Frontal",
            {"mesh": ["normal"]},
        ),
        Record(
            f"{folder}/{films[2][1]}",
            "",
            "Effusion.",
            labels={"Cardiomegaly": -1, "Pleural Effusion": 1},
            patient="2",
            view="Frontal",
            extra={"mesh": ["Cardiomegaly/borderline", "Pleural Effusion/left"]},
        ),
    ]
    assert source.problems.count("dropped", "view not frontal") == source.problems.count("bad", "empty report") == 1
    assert len(open_source(tmp_path, need_images=False)) == 2
