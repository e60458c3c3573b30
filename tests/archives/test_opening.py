"""A set is recognised or refused in one line."""

import pytest
from archive_files import broken, own, picture

from archives.opening import open_source
from common.errors import UserError
from judges.features import open_images


def test_too_many_bad_rows_stop_the_set_in_one_line(tmp_path):
    root = own(tmp_path / "own", [(f"{n}.png", "Clear.") for n in range(100)])
    for n in range(19):
        (root / f"{n}.png").unlink()
    assert len(open_source(root)) == 81  # fewer than twenty
    (root / "19.png").unlink()
    with pytest.raises(UserError, match=r"20 of 100 rows cannot be used: bad: 20 image absent \(0\.png") as caught:
        open_source(root)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("metadata.csv", "image\na.png\n", r"metadata\.csv: no column report"),
        ("metadata.csv", "file,report\na.png,Clear.\n", r"metadata\.csv: no column image"),
        ("metadata.csv", "", r"metadata\.csv: no column"),
        ("metadata.csv", 'image,report\na.png,Clear.\nb.png,"Clear.\nc.png,Clear.\n', r"line 3: a quote is opened"),
        (
            "metadata.csv",
            "image,report\na.png,Clear.\n".encode("utf-16"),
            r"metadata\.csv: cannot be read \(not a text file",
        ),
        ("metadata.csv", "image,report,split\na.png,Clear.,trian\n", "1 unknown split"),
        ("metadata.csv", "image,report,report\na.png,Clear.,Hazy.\n", r"metadata\.csv: two columns report"),
        ("set.csv", "file,age\na.png,58\n", r"columns image and report \(there is set\.csv\); docs/data\.md says"),
        (
            "set.csv",
            "file,report\na.png,Clear.\n",
            r"set\.csv: no column image; it has file, report; docs/data\.md",
        ),
        ("set.csv", "path,annotated_prompt\na.png,\n", "1 empty report"),
        ("notes.txt", "hello", "no data set known here"),
    ],
)
def test_a_set_that_cannot_be_used_says_why(tmp_path, name, content, message):
    root = tmp_path / "set"
    picture(root / "a.png")
    (root / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(UserError, match=message):
        open_source(root)


def test_paths_and_splits_that_do_not_exist(tmp_path):
    with pytest.raises(UserError, match="no such file or folder"):
        open_source(tmp_path / "nowhere")
    root = own(tmp_path / "own", [("a.png", "Clear.")])
    with pytest.raises(UserError, match="no such split"):
        open_source(root, split="trian")
    with pytest.raises(UserError, match=r"nothing to use in split 'test' \(found: 1 train\)"):
        open_source(root, split="test")
    with pytest.raises(UserError, match=r"a\.png: no table"):
        open_source(root / "a.png")
    (tmp_path / "two").mkdir()
    for name in ("x.csv", "y.csv"):
        (tmp_path / "two" / name).write_text("image,report\n")
    with pytest.raises(UserError, match=r"several tables \(x\.csv, y\.csv\)"):
        open_source(tmp_path / "two")


def test_only_tables_of_data_sets_count_and_no_hidden_ones(tmp_path):
    """Pictures beside args.json, log.csv or a run's log.jsonl are a folder of pictures (judges/features.py)."""
    root = own(tmp_path / "own", [("a.png", "Clear.")])
    (root / "metadata.csv").rename(root / "table.csv")
    for name in ("._table.csv", ".ipynb_checkpoints.csv"):
        (root / name).write_bytes((root / "table.csv").read_bytes())
    for name, text in (("args.json", '{"steps": 50}'), ("log.csv", "step,loss\n1,2\n"), ("log.jsonl", '{"step": 1}\n')):
        (root / name).write_text(text)
    assert len(open_source(root)) == 1
    (root / "table.csv").unlink()
    with pytest.raises(UserError, match=r"no data set known here.*\(there is args\.json, log\.csv, log\.jsonl\)"):
        open_source(root)
    assert [each.image for each in open_images(root).records] == ["a.png"]


def test_two_tables_of_ones_own_are_one_too_many(tmp_path):
    root = own(tmp_path / "own", [("a.png", "Clear.")])
    (root / "metadata.jsonl").write_text("")
    with pytest.raises(UserError, match=r"several tables \(metadata\.csv, metadata\.jsonl\); name the one to use"):
        open_source(root)


def test_check_finds_broken_images_before_a_run_does(tmp_path):
    root = own(tmp_path / "own", [(f"{n}.png", "Clear.") for n in range(5)])
    (root / "4.png").write_bytes(b"no image")
    records = open_source(root)
    (wrong,) = broken(records)
    assert "4.png: not an image" in wrong
