"""A set is recognised, refused in one line if it cannot be used, and not read again while it is the same."""

import pytest
from archive_files import broken, mimic, own, picture, table

from archives import opening
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
        ("metadata.csv", "image,report\na.png,Clear.\n".encode("utf-16"), r"metadata\.csv: not a text file"),
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
    assert open_images(root).files == [root / "a.png"]


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


def test_the_cache_is_used_and_equal(tmp_path, monkeypatch):
    root, cache = mimic(tmp_path / "mimic"), tmp_path / "cache"
    first = open_source(root, split="all", cache=cache)
    with monkeypatch.context() as patch:
        patch.setitem(opening.KINDS, "mimic-cxr", None)  # reading again would fail
        again = open_source(root, split="all", cache=cache)
        assert len(open_source(root, cache=cache)) == 2  # the same file serves every split
    assert again.records == first.records and again.problems.found == first.problems.found
    (kept,) = cache.iterdir()
    for damage in (
        kept.read_bytes()[:-40],
        kept.read_bytes().rsplit(b"\n", 1)[0],
        b"",
        b"\xff\x00",
        b"[3, {}]\n1\n2\n3",
    ):
        kept.write_bytes(damage)
        rebuilt = open_source(root, split="all", cache=cache)
        assert rebuilt.records == first.records and rebuilt.problems.found == first.problems.found
    assert open_source(root, split="all", cache=None).records == first.records
    assert [p.name for p in cache.iterdir()] == [kept.name]


def test_the_cache_notices_changes(tmp_path):
    root, cache = own(tmp_path / "own", [("a.png", "Clear."), ("images/x/b.png", "Clear.")]), tmp_path / "own" / "cache"
    assert len(open_source(root, cache=cache)) == 2
    table(root / "metadata.csv", [("image", "report"), ("a.png", "Hazy.")])
    assert open_source(root, cache=cache).text(0)[1] == "Hazy."
    table(root / "metadata.csv", [("image", "report"), ("a.png", "Clear."), ("images/x/c.png", "Clear.")])
    assert len(open_source(root, cache=cache)) == 1
    picture(root / "images/x/c.png")  # a set with a bad row is read again: the row may be mended by now
    assert len(open_source(root, cache=cache)) == 2


def test_a_cache_that_cannot_be_kept_is_named(tmp_path):
    root = own(tmp_path / "own", [("a.png", "Clear.")])
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="choose another folder"):
        open_source(root, cache=tmp_path / "file")


def test_a_set_is_read_again_when_the_code_changes(tmp_path, monkeypatch):
    root, cache = own(tmp_path / "own", [("a.png", "Clear.")]), tmp_path / "cache"
    open_source(root, cache=cache)
    reads = []
    reader, *signs = opening.KINDS["own"]
    monkeypatch.setitem(opening.KINDS, "own", (lambda *arguments: reads.append(1) or reader(*arguments), *signs))
    open_source(root, cache=cache)
    assert reads == []
    monkeypatch.setattr(opening, "source_hash", lambda *_: "other code")
    assert len(open_source(root, cache=cache)) == 1
    assert reads == [1] and len(list(cache.iterdir())) == 2
