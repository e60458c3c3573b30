"""Cleaning by a language model: a server that misbehaves never harms a run."""

import threading

import pytest
from fake_server import by_llm, good, items, written

from common.errors import UserError
from reports.cleaning import clean_records
from reports.llm import ChatServer, answer_key, parse_answer


def test_good_answers_are_written_and_a_key_never_is(serve, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")
    fake = serve(good)
    counts = by_llm(fake, tmp_path, prices=(1e6, 0.0))
    assert counts == {"read": 6, "changed": 6, "emptied": 0, "disagreements": 0, "fallbacks": 0}
    assert written(tmp_path / "out.jsonl")[4] == {**items()[4], "findings": "Left effusion of 6 cm.", "changed": True}
    request = fake.requests[0]
    assert (request["path"], request["key"]) == ("/v1/chat/completions", "Bearer sk-secret")
    assert (request["model"], request["temperature"]) == ("tiny", 0)
    assert not any("sk-secret" in path.read_text() for path in tmp_path.iterdir())
    printed = capsys.readouterr().out
    assert "6 reports to ask, 0 answered before: about " in printed and "$" in printed and "sk-secret" not in printed


def test_no_key_is_sent_where_none_is_set(serve, tmp_path, monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    fake = serve(good)
    by_llm(fake, tmp_path, items(1))
    assert fake.requests[0]["key"] is None


def test_a_busy_server_is_asked_again_when_it_says(serve, tmp_path, monkeypatch):
    waits = []
    monkeypatch.setattr(threading.Event, "wait", spy(waits, threading.Event.wait))
    fake = serve(
        lambda n, *report: (429, {"Retry-After": "7"}) if n == 1 else (503, {}) if n == 2 else good(n, *report)
    )
    counts = by_llm(fake, tmp_path, items(1), concurrency=1, backoff=0.01)
    assert counts["changed"] == 1 and len(fake.requests) == 3
    assert waits[0] == 7 and 0.01 <= waits[1] <= 0.02  # backoff * 2**1, at most half of it taken off


def spy(waits, wait):
    """Event.wait that notes the named pauses of `clean` and does not sleep them."""

    def noted(event, timeout=None):
        if timeout is None or timeout in (0.01, 5):
            return wait(event, timeout)
        waits.append(timeout)
        return False

    return noted


@pytest.mark.parametrize(
    "answer",
    [
        "Sure! Here it is",
        '{"findings": "a"}',
        '{"findings": 1, "impression": ""}',
        "[]",
        '{"findings": "a", "impression": "b',
    ],
)
def test_a_malformed_answer_is_asked_once_more_then_the_rules_do_it(serve, tmp_path, answer):
    fake = serve(lambda n, findings, impression: answer if "2 cm" in findings else good(n, findings, impression))
    counts = by_llm(fake, tmp_path, items(2))
    assert len(fake.requests) == 3 and counts["fallbacks"] == 1
    assert written(tmp_path / "out.jsonl")[0]["findings"] == "Left effusion of 2 cm."
    assert len(written(tmp_path / "out.jsonl.answers.jsonl")) == 1


def test_an_answer_in_a_code_fence_is_read():
    assert parse_answer('```json\n{"findings": "A.", "impression": ""}\n```') == ("A.", "")
    assert parse_answer('Here: {"findings": "A.", "impression": ""}') is None


def test_a_cut_off_run_goes_on_without_asking_again(serve, tmp_path):
    cut = serve(lambda n, *report: good(n, *report) if n <= 3 else (500, {}))
    with pytest.raises(UserError, match="no answer after 2 tries"):
        by_llm(cut, tmp_path, concurrency=1, retries=1)
    answers = tmp_path / "out.jsonl.answers.jsonl"
    assert not (tmp_path / "out.jsonl").exists() and len(written(answers)) == 3
    answers.write_text(answers.read_text()[:-20])  # torn in the middle of the third line
    fake = serve(good)
    assert by_llm(fake, tmp_path)["changed"] == 6
    assert len(fake.requests) == 4 and len(written(answers)) == 6
    again = serve(good)
    assert by_llm(again, tmp_path)["changed"] == 6 and not again.requests
    assert clean_records(items(), tmp_path / "out.jsonl", again.url, "other", progress=False)["read"] == 6
    assert len(again.requests) == 6  # another model, other answers


def test_equal_reports_are_asked_once_and_empty_ones_never(serve, tmp_path):
    fake = serve(good)
    empty = {"image": "e.png", "findings": " ", "impression": ""}
    counts = by_llm(fake, tmp_path, [items(1)[0]] * 3 + [empty])
    assert len(fake.requests) == 1
    assert counts == {"read": 4, "changed": 3, "emptied": 0, "disagreements": 0, "fallbacks": 0}


def test_a_server_may_be_told_to_leave_words_of_comparison(serve):
    fake = serve(good)
    removing, keeping = (ChatServer(fake.url, "m", keep_comparisons=keep) for keep in (False, True))
    assert "comparisons with earlier studies" in removing.prompt and "its own word stays" in keeping.prompt
    assert answer_key(removing, "a", "b") != answer_key(keeping, "a", "b")  # answers to one are none to the other
