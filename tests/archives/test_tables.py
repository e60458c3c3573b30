"""Rows of a table and the paths in them: every fault is counted by name."""

from archive_files import own, picture

from archives.opening import open_source


def test_every_lost_row_is_counted_and_named(tmp_path):
    root = own(tmp_path / "own", [(f"{n}.png", "Clear.") for n in range(3)])
    picture(tmp_path / "outside.png")
    with open(root / "metadata.csv", "ab") as file:
        file.write(
            b"absent.png,Clear.\n0.png,\n../outside.png,Clear.\n/etc/passwd,Clear.\nC:\\a.png,Clear.\n"
            b"..\\outside.png,Clear.\n0.png\n0.png,a,b\n\nsub/../0.png,It isn\x92t \xe9vident\n,Clear.\n"
        )
    records = open_source(root)
    assert [r.image for r in records.records] == ["0.png", "1.png", "2.png", "0.png"]
    found = records.problems.found
    assert records.records[3].findings == "It isn’t évident"  # Windows-1252
    assert found["bad"]["image absent"] == [2, ["absent.png", "(no name)"]]
    assert found["bad"]["empty report"] == [1, ["0.png"]]
    assert found["bad"]["path outside of the data folder"][0] == 4
    assert found["bad"]["wrong number of columns"] == [2, ["metadata.csv line 11", "metadata.csv line 12"]]
    assert found["note"]["not UTF-8, read as Windows-1252"] == [1, ["metadata.csv"]]
    assert "bad: 2 image absent (absent.png, (no name))" in records.problems.summary().split("\n")
    assert records.kind == "own" and records.counts == {"train": 4}
