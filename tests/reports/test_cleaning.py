"""Cleaned records: all of them written and counted, no finding lost, the flags of the command."""

import json
import sys

import pytest
from fake_server import by_llm, good, items, written

from archives import command
from archives.opening import open_source
from common.errors import UserError
from reports.cleaning import clean_records


def test_rules_write_every_record_and_count(tmp_path, capsys):
    out = tmp_path / "new" / "out.jsonl"
    records = items(2) + [{"image": "x.png", "findings": "", "impression": "No interval change."}]
    counts = clean_records(records, out, progress=False)
    assert counts == {"read": 3, "changed": 2, "emptied": 1, "disagreements": 0, "fallbacks": 0}
    assert written(out)[1] == {**items(2)[1], "findings": "Left effusion of 3 cm.", "changed": True}
    assert written(out)[2] == {**records[2], "changed": False}
    printed = capsys.readouterr().out
    assert "3 read, 2 changed, 1 emptied" in printed and not list(out.parent.glob("*.tmp"))


ADDED = ("Right pneumothorax.", "Cardiomegaly.", "Possible mass.", "Scoliosis and rib fracture.", "PICC in place.")


@pytest.mark.parametrize(
    "findings", ["", "Right effusion.", "No left effusion.", *(f"Left effusion. {x}" for x in ADDED)]
)
def test_an_answer_that_loses_or_adds_a_finding_is_refused_and_written_down(serve, tmp_path, findings):
    fake = serve(lambda *_: json.dumps({"findings": findings, "impression": "No fracture."}))
    counts = by_llm(fake, tmp_path, items(1))
    assert counts["disagreements"] == 1 and counts["emptied"] == 0
    assert written(tmp_path / "out.jsonl")[0]["findings"] == "Left effusion of 2 cm."
    (record,) = written(tmp_path / "out.jsonl.disagreements.jsonl")
    assert record["observations"] and record["by"] == "llm"
    assert record["before"] == ["Stable left effusion of 2 cm.", "No fracture."]
    assert record["after"] == [findings, "No fracture."]


def test_what_cannot_work_is_refused_in_one_line(serve, tmp_path):
    refusing = serve(lambda *_: (401, {}))
    out = tmp_path / "out.jsonl"
    quick = {"progress": False, "retries": 1}
    for message, arguments in {
        r"--llm http://127\.0\.0\.1:9/v1: no answer after 2 tries": {"llm": "http://127.0.0.1:9/v1", "model": "m"},
        r"--llm .*answers 401.*set OPENAI_API_KEY": {"llm": refusing.url, "model": "m"},
        r"--llm: not a plain web address": {"llm": "localhost", "model": "m"},
        r"--llm: which model\? add --model NAME": {"llm": refusing.url},
    }.items():
        with pytest.raises(UserError, match=message) as caught:
            clean_records(items(1), out, **quick, **arguments)
        assert "\n" not in str(caught.value)
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"--out .*file: cannot write there"):
        clean_records(items(1), tmp_path / "file" / "out.jsonl", progress=False)
    assert not out.exists()


def test_the_flags_reach_the_work(serve, tmp_path, monkeypatch):
    def clean(*flags):
        out = tmp_path / "out.jsonl"
        monkeypatch.setattr(sys, "argv", ["data.py", "clean", str(tmp_path), "--out", str(out), *flags])
        command.main()
        return written(out)

    rows = [{"image": "a.png", "findings": "Stable cardiomegaly since ___.", "impression": ""}, *items(2)]
    (tmp_path / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    fake = serve(good)
    assert all(row["changed"] for row in clean("--llm", fake.url, "--model", "m", "--concurrency", "2"))
    assert len(fake.requests) == 3
    assert clean("--keep-comparisons")[0]["findings"] == "Stable cardiomegaly."
    for flag in ("--model", "--concurrency", "--timeout"):
        with pytest.raises(UserError, match=f"{flag}: only a server takes it; add --llm URL"):
            clean(flag, "2")


def test_captions_and_questions_of_a_row_stay(tmp_path):
    extra = {"captions": ["a left effusion"], "question": "What is seen?", "mesh": ["Pleural Effusion/left"]}
    (tmp_path / "0.png").touch()
    clean_records([items(1)[0] | {"extra": extra}], tmp_path / "metadata.jsonl", progress=False)
    (row,) = written(tmp_path / "metadata.jsonl")
    assert "extra" not in row and {name: row[name] for name in extra} == extra
    (record,) = open_source(tmp_path).records
    assert record.extra == extra and record.findings == "Left effusion of 2 cm."


def test_a_missing_package_is_named_with_its_mend(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "openai", None)
    monkeypatch.delitem(sys.modules, "reports.llm", raising=False)
    with pytest.raises(UserError, match="--llm: the package openai is missing; pip install 'openai'"):
        clean_records(items(1), tmp_path / "out.jsonl", "http://127.0.0.1:9/v1", "m", progress=False)
