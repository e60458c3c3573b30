"""Cleaning by a language model: a server that misbehaves never harms a run."""

import json
import time

import pytest
from fake_server import by_llm, good, items, written

from common.errors import UserError
from reports.cleaning import clean_records
from reports.llm import parse_answer


def test_good_answers_are_written_and_a_key_never_is(serve, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")
    fake = serve(good)
    counts = by_llm(fake, tmp_path)
    assert counts == {"read": 6, "changed": 6, "emptied": 0, "disagreements": 0, "fallbacks": 0}
    assert written(tmp_path / "out.jsonl")[4] == {**items()[4], "findings": "Left effusion of 6 cm.", "changed": True}
    request = fake.requests[0]
    assert (request["path"], request["key"]) == ("/v1/chat/completions", "Bearer sk-secret")
    assert (request["model"], request["temperature"]) == ("tiny", 0)
    assert not any("sk-secret" in path.read_text() for path in tmp_path.iterdir())
    printed = capsys.readouterr().out
    assert "6 reports to ask, 0 answered before\n" in printed and "sk-secret" not in printed


def test_no_key_is_sent_where_none_is_set(serve, tmp_path, monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    fake = serve(good)
    by_llm(fake, tmp_path, items(1))
    assert fake.requests[0]["key"] is None


def test_a_server_on_this_machine_is_not_asked_by_way_of_a_proxy(serve, tmp_path, monkeypatch):
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    assert by_llm(serve(good), tmp_path, items(1))["fallbacks"] == 0


def test_a_busy_server_is_asked_again_when_it_says(serve, tmp_path):
    def reply(n, *report):
        return (429, {"Retry-After": "0.3"}) if n == 1 else (503, {}) if n == 2 else good(n, *report)

    fake, started = serve(reply), time.monotonic()
    counts = by_llm(fake, tmp_path, items(1), concurrency=1)
    assert counts["changed"] == 1 and len(fake.requests) == 3
    assert time.monotonic() - started > 0.3


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


GIVEN = json.dumps({"findings": "Small {left} effusion.", "impression": "\nEffusion."})
WRAPPED = {
    "plain": GIVEN,
    "thought": f'<think>\nThe answer is {{"findings": "", "impression": ""}}.\n</think>\n\n{GIVEN}',
    "thought, begun by the prompt": f"First the findings.</think>{GIVEN}",
    "prose": f"Here you are:\n{GIVEN}\nI hope that this helps!",
    "fence": f"```json\n{GIVEN}\n```",
    "fence in capitals": f"```JSON\n{GIVEN}\n```",
    "one more key": json.dumps({"changes": [], **json.loads(GIVEN), "note": {}}),
    "line breaks as they are": GIVEN.replace("\\n", "\n"),
    "braces in the prose": f"With {{care}}: {GIVEN} Is {{it}} right?",
    "twice": f'{{"findings": "Draft.", "impression": ""}}\n{GIVEN}',
    "thought in tags of its own": f"<thinking>{{x: 1}}</thinking>{GIVEN}",
    "another kind of thoughts": f"<|channel|>analysis {{...}}<|end|><|channel|>final<|message|>{GIVEN}",
    "in a field": f'{{"report": {GIVEN}}}',
    "keys in capitals": GIVEN.replace("findings", "FINDINGS").replace("impression", "Impression"),
}


@pytest.mark.parametrize("text", WRAPPED.values(), ids=WRAPPED)
def test_an_answer_is_found_in_what_models_write_around_it(text):
    assert parse_answer(text) == ("Small {left} effusion.", "\nEffusion.")
    assert parse_answer('{"findings": "Clear.", "impression": null}') == ("Clear.", "")


def test_a_model_that_refuses_a_temperature_is_asked_without_one(serve, tmp_path):
    refusal = {"error": {"message": "Unsupported value: 'temperature'", "param": "temperature"}}
    fake = serve(good, lambda body: (400, refusal) if body.get("temperature", 1) != 1 else None)
    assert by_llm(fake, tmp_path, items(8), concurrency=2)["changed"] == 8
    assert len(fake.requests) <= 8 + 2 and "temperature" not in fake.requests[-1]


def test_content_in_parts_is_read(serve, tmp_path):
    fake = serve(lambda *report: [{"type": "text", "text": part} for part in (good(*report)[:9], good(*report)[9:])])
    assert by_llm(fake, tmp_path, items(2))["fallbacks"] == 0


LEFT = "Left effusion of 2 cm."


@pytest.mark.parametrize("findings", [LEFT + "\0", LEFT + "\x1b[31m", "\u202e" + LEFT, LEFT * 20_000], ids=range(4))
def test_an_answer_that_no_report_can_have_become_is_not_taken(serve, tmp_path, findings):
    fake = serve(lambda *_: json.dumps({"findings": findings, "impression": "No fracture."}))
    counts = by_llm(fake, tmp_path, items(1))
    assert len(fake.requests) == 1 and counts["fallbacks"] == 1
    assert written(tmp_path / "out.jsonl")[0]["findings"] == LEFT


def test_a_cut_off_run_goes_on_without_asking_again(serve, tmp_path):
    cut = serve(lambda n, *report: good(n, *report) if n <= 3 else (500, {}))
    with pytest.raises(UserError, match="no answer after 2 tries"):
        by_llm(cut, tmp_path, concurrency=1, retries=1)
    answers = tmp_path / "out.jsonl.answers.jsonl"
    assert not (tmp_path / "out.jsonl").exists() and len(written(answers)) == 3
    answers.write_text(answers.read_text()[:-20])  # torn in the middle of the third line
    fake = serve(good)
    assert by_llm(fake, tmp_path)["changed"] == 6
    assert (
        len(fake.requests) == 4 and len(answers.read_text().splitlines()) == 7
    )  # the torn one stays, and is no answer
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


def test_a_server_may_be_told_to_leave_words_of_comparison(serve, tmp_path):
    fake = serve(good)
    for keep in (False, True):  # answers to one are none to the other
        by_llm(fake, tmp_path, items(1), keep_comparisons=keep)
    removing, keeping = (request["messages"][0]["content"] for request in fake.requests)
    assert "comparisons with earlier studies" in removing and "its own word stays" in keeping
