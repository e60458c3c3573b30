"""Cleaned records: all of them written and counted, no finding lost, the flags of the command."""

import argparse
import json

import pytest
from fake_server import by_llm, good, items, written

from common.errors import UserError
from reports import cleaning
from reports.cleaning import clean_records


def test_rules_write_every_record_and_count(tmp_path, capsys):
    out = tmp_path / "new" / "out.jsonl"
    records = items(2) + [{"image": "x.png", "findings": "", "impression": "No interval change."}]
    counts = clean_records(records, out, progress=False, examples=1)
    assert counts == {"read": 3, "changed": 2, "emptied": 1, "disagreements": 0, "fallbacks": 0}
    assert written(out)[1] == {**items(2)[1], "findings": "Left effusion of 3 cm.", "changed": True}
    assert written(out)[2] == {**records[2], "changed": False}
    printed = capsys.readouterr().out
    assert (
        "before  Stable left effusion of 2 cm. | No fracture.\nafter   Left effusion of 2 cm. | No fracture." in printed
    )
    assert "3 read, 2 changed, 1 emptied" in printed and not list(out.parent.glob("*.tmp"))


@pytest.mark.parametrize("findings", ["", "Right effusion.", "No left effusion."])
def test_an_answer_that_loses_a_finding_is_refused_and_written_down(serve, tmp_path, findings):
    fake = serve(lambda *_: json.dumps({"findings": findings, "impression": "No fracture."}))
    counts = by_llm(fake, tmp_path, items(1))
    assert counts["disagreements"] == 1 and counts["emptied"] == 0
    assert written(tmp_path / "out.jsonl")[0]["findings"] == "Left effusion of 2 cm."
    (record,) = written(tmp_path / "out.jsonl.disagreements.jsonl")
    assert "Pleural Effusion" in record["observations"] and record["by"] == "llm"
    assert record["before"] == ["Stable left effusion of 2 cm.", "No fracture."]
    assert record["after"] == [findings, "No fracture."]


def test_what_cannot_work_is_refused_in_one_line(serve, tmp_path):
    refusing = serve(lambda *_: (401, {}))
    out = tmp_path / "out.jsonl"
    quick = {"progress": False, "retries": 1, "backoff": 0.001}
    for message, arguments in {
        r"--llm http://127\.0\.0\.1:9/v1: no answer after 2 tries": {"llm": "http://127.0.0.1:9/v1", "model": "m"},
        r"--llm .*answers 401.*set OPENAI_API_KEY": {"llm": refusing.url, "model": "m"},
        r"--llm localhost: not a web address": {"llm": "localhost", "model": "m"},
        r"--llm: which model\? add --model NAME": {"llm": refusing.url},
        r"--concurrency 0: must be 1 or more": {"concurrency": 0},
    }.items():
        with pytest.raises(UserError, match=message) as caught:
            clean_records(items(1), out, **quick, **arguments)
        assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match='record 2: "impression" is no text'):
        clean_records([*items(1), {"image": "b.png", "findings": "a"}], out, progress=False)
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"out\.jsonl: cannot be written"):
        clean_records(items(1), tmp_path / "file" / "out.jsonl", progress=False)
    assert not out.exists()


def test_the_flags_reach_the_work(serve, tmp_path):
    parser = argparse.ArgumentParser()
    cleaning.add_arguments(parser)
    fake = serve(good)
    out = str(tmp_path / "out.jsonl")
    args = parser.parse_args(["--out", out, "--llm", fake.url, "--model", "m", "--concurrency", "2", "--examples", "1"])
    assert cleaning.run(args, items(2))["changed"] == 2 and len(fake.requests) == 2
    args = parser.parse_args(["--out", out, "--keep-comparisons"])
    stable = [{"image": "a.png", "findings": "Stable cardiomegaly since ___.", "impression": ""}]
    cleaning.run(args, stable)
    assert json.loads((tmp_path / "out.jsonl").read_text())["findings"] == "Stable cardiomegaly."
    with pytest.raises(UserError, match="--model: only a server has models"):
        cleaning.run(parser.parse_args(["--out", out, "--model", "m"]), items(2))
