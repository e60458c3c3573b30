"""Cleaned reports: what compares, dates or addresses goes, every finding stays, and a bad server never harms a run."""

import argparse
import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from common.errors import UserError
from phantoms.dataset import Phantoms
from reports import cleaning
from reports.cleaning import clean_records, differences
from reports.llm import parse_answer
from reports.rules import clean_report, clean_text

SENTENCES = [
    # Comparisons: the finding stays, with its side, its size and its negation.
    ("Interval increase in moderate left pleural effusion.", "Moderate left pleural effusion."),
    ("Interval decrease in size of the small right apical pneumothorax.", "Small right apical pneumothorax."),
    ("Unchanged cardiomegaly.", "Cardiomegaly."),
    ("Mild cardiomegaly is unchanged.", "Mild cardiomegaly."),
    ("Mild stable cardiomegaly.", "Mild cardiomegaly."),
    ("No new consolidation.", "No consolidation."),
    ("No new or worsening consolidation.", "No consolidation."),
    ("As compared to ___, the right effusion has increased.", "The right effusion."),
    ("Compared to the prior study from 3/4/2015, there is a left basal opacity.", "There is a left basal opacity."),
    ("There is a left effusion, slightly larger than on the prior study.", "There is a left effusion."),
    ("Again seen is a calcified granuloma in the left apex.", "There is a calcified granuloma in the left apex."),
    ("The left rib fractures are again noted.", "The left rib fractures are noted."),
    ("The heart is again mildly enlarged.", "The heart is mildly enlarged."),
    ("The heart remains enlarged.", "The heart is enlarged."),
    ("Bilateral opacities persist.", "Bilateral opacities."),
    ("Heart size is normal and unchanged from the previous radiograph.", "Heart size is normal."),
    ("Right PICC is unchanged in position with tip in the lower SVC.", "Right PICC with tip in the lower SVC."),
    ("In the interval, a nodule has developed in the right apex.", "A nodule is seen in the right apex."),
    ("No change in the right pleural effusion.", "Right pleural effusion."),
    ("Opacities are unchanged and compatible with scarring.", "Opacities are compatible with scarring."),
    ("Interval resolution of the left effusion.", "No left effusion."),
    ("The previously seen left pneumothorax has resolved.", "No left pneumothorax."),
    ("Interval removal of the endotracheal tube.", "No endotracheal tube."),
    ("The right effusion is not significantly changed since the prior exam.", "The right effusion."),
    ("Bilateral effusions are not new.", "Bilateral effusions."),
    ("The right pneumothorax is stable to slightly larger.", "The right pneumothorax."),
    ("The right effusion is larger, and the left effusion is smaller.", "The right effusion, and the left effusion."),
    ("Heart size remains stable and mildly enlarged.", "Heart size is mildly enlarged."),
    ("The left pneumothorax is no longer seen.", "No left pneumothorax."),
    (
        "The right basal opacity has almost completely resolved.",
        "The right basal opacity has almost completely resolved.",
    ),
    ("A nodule not seen on the prior study projects over the left apex.", "A nodule projects over the left apex."),
    ("No significant interval change.", ""),
    ("Comparison is made to the radiograph of 2 days earlier.", ""),
    ("The mediastinum is stable.", ""),
    ("No prior studies are available for comparison.", ""),
    # What only looks like a comparison.
    ("Healed fracture from prior trauma on the right.", "Healed fracture from prior trauma on the right."),
    ("Signs of prior granulomatous disease.", "Signs of prior granulomatous disease."),
    ("Increased interstitial markings.", "Increased interstitial markings."),
    ("The left lung is hazy compared to the right.", "The left lung is hazy compared to the right."),
    # Technique, dates, names, advice and courtesy.
    ("PA and lateral views of the chest were obtained.", ""),
    ("Portable AP upright chest radiograph.", ""),
    ("The lateral view shows a small left effusion.", "A small left effusion."),
    ("Frontal and lateral views of the chest show clear lungs.", "Clear lungs."),
    (
        "Endotracheal tube placed at 10:32 a.m. ends above the carina.",
        "Endotracheal tube placed ends above the carina.",
    ),
    ("Findings were discussed with Dr. ___ by telephone at 4:15 pm on 3/4/2015.", ""),
    ("The results were communicated to the ward.", ""),
    ("Recommend follow-up CT.", ""),
    ("Vague right basal opacity, clinical correlation recommended.", "Vague right basal opacity."),
    ("Thank you for this referral. Dictated by J. Doe.", ""),
    ("Please see the CT report.", ""),
    # Advice that is the only one to name an observation stays: it holds the finding.
    ("Recommend CT of the right upper lobe nodule.", "Recommend CT of the right upper lobe nodule."),
    # Blanks, headers, lists, line breaks, capitals and full stops.
    ("There is a ___ small left effusion", "There is a small left effusion."),
    ("The XXXX are unremarkable. XXXX are clear of consolidation.", "Clear of consolidation."),
    ("No XXXX of pleural effusion.", "No pleural effusion."),
    ("[**Hospital 12**] No pneumothorax.", "No pneumothorax."),
    (
        "FINDINGS: lungs are clear. IMPRESSION: 1. No effusion. 2) Cardiomegaly.",
        "Lungs are clear. No effusion. Cardiomegaly.",
    ),
    ("COMPARISON: ___.\n\nFINDINGS: The tip ends in the\nSVC.\n", "The tip ends in the SVC."),
    ("COMPARISON: None. The heart is normal.", "The heart is normal."),
    ("INDICATION: fever, rule out pneumonia. FINDINGS: Clear lungs.", "Clear lungs."),
    ("No effusion ; heart normal .. Bones  intact", "No effusion. Heart normal. Bones intact."),
    # Negations, uncertainty and sides as they are.
    ("There is no pleural effusion or pneumothorax.", "There is no pleural effusion or pneumothorax."),
    ("Pneumonia cannot be excluded.", "Pneumonia cannot be excluded."),
    ("Possible small left, not right, effusion.", "Possible small left, not right, effusion."),
    ("The heart is not enlarged.", "The heart is not enlarged."),
    (
        "Nodule of 9 mm in the left apex, 2.5 cm from the hilum.",
        "Nodule of 9 mm in the left apex, 2.5 cm from the hilum.",
    ),
    ("", ""),
]


@pytest.mark.parametrize(("before", "after"), SENTENCES)
def test_a_sentence_is_cleaned_to_exactly_this_and_stays_so(before, after):
    assert clean_text(before) == after
    assert clean_text(after) == after


def test_advice_goes_where_the_finding_is_named_elsewhere():
    nodule = "There is a nodule in the right upper lobe."
    assert clean_text(f"{nodule} Recommend CT of the right upper lobe nodule.") == nodule


def test_reports_whose_labels_are_known_keep_every_label():
    phantoms = Phantoms(300)
    for index in range(300):
        report, impression = phantoms.text(index)
        noisy = (
            report.replace(" No ", " No new ")
            .replace("There is ", "Again seen is ")
            .replace("Small", "Unchanged small")
        )
        noisy = f"COMPARISON: ___.\n\n{noisy} Discussed with Dr. ___ by phone at 9:05 a.m."
        for text in (report, impression, noisy):
            cleaned = clean_text(text)
            assert not differences(text, cleaned)
        assert clean_text(cleaned) == cleaned
        assert not any(
            noise in cleaned for noise in ("_", "new", "gain", "nchanged", "phone", "COMPARISON", "FINDINGS")
        )
    assert clean_report(report, impression) == (clean_text(report), clean_text(impression))


# ---- a server that misbehaves --------------------------------------------------------------------------------------


class FakeServer:
    """Answers each request by `reply(number, findings, impression)`: an answer's text, or (status, headers)."""

    def __init__(self, reply):
        self.requests, self.lock, fake = [], threading.Lock(), self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                report = json.loads(body["messages"][-1]["content"])
                with fake.lock:
                    fake.requests.append({"path": self.path, "key": self.headers["Authorization"], **body, **report})
                    number = len(fake.requests)
                answer = reply(number, report["findings"], report["impression"])
                status, headers = answer if isinstance(answer, tuple) else (200, {})
                text = answer if isinstance(answer, str) else "busy"
                content = json.dumps({"choices": [{"message": {"content": text}}]}).encode()
                self.send_response(status)
                for name, value in {**headers, "Content-Length": str(len(content))}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *args):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/v1"
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()


@pytest.fixture
def serve():
    servers = []

    def start(reply):
        servers.append(FakeServer(reply))
        return servers[-1]

    yield start
    for fake in servers:
        fake.server.shutdown()
        fake.server.server_close()


def good(number, findings, impression):
    return json.dumps({"findings": findings.replace("Stable ", "").capitalize(), "impression": impression})


def items(count=6):
    return [
        {
            "image": f"{i}.png",
            "findings": f"Stable left effusion of {i + 2} cm.",
            "impression": "No fracture.",
            "age": i,
        }
        for i in range(count)
    ]


def by_llm(fake, tmp_path, records=None, concurrency=4, **more):
    options = {"progress": False, "backoff": 0.001, "timeout": 5, **more}
    records = items() if records is None else records
    return clean_records(records, tmp_path / "out.jsonl", fake.url, "tiny", concurrency, **options)


def written(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


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
    with pytest.raises(UserError, match="--model: only a server has models"):
        cleaning.run(parser.parse_args(["--out", out, "--model", "m"]), items(2))


def test_a_long_sentence_takes_no_long_time():
    for noise in (
        "mildly slightly ",
        "no new effusion, ",
        "___ the ",
        "1/2/",
        "unchanged compared to the prior study ",
    ):
        started = time.perf_counter()
        clean_text(noise * 300)
        assert time.perf_counter() - started < 2
