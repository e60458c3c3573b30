"""A text of any kind takes a time that grows with its length: no report stops a run, however broken."""

import itertools
import time

import pytest

from reports.labeler import MAX_SENTENCE, label_report, labels_of, pieces, read_claims, split_sentences
from reports.rules import clean_text

UNITS = {
    "newlines": "\n",
    "spaces": " ",
    "both": "\n ",
    "no": "no ",
    "or": "or ",
    "commas": ",",
    "one word": "a",
    "digits": "1",
    "stops": "." * 99 + "x",
    "list": "\n- ",
    "blanks": "[**",
    "leads": "views of the chest with overlying ",
    "mentions": "opacity and nodule ",
    "sentences": "Small left effusion. ",
    "advice": "Recommend CT of the nodule. ",
    "other": "COMPARISON: none. Unchanged effusion ",
    "statements": "no effusion, small edema, ",
    "ones": "a left one ",
    "structured": "edema: none? ",
    "lines": "Edema\n",
}


def seconds(work, text):
    started = time.process_time()
    work(text)
    return time.process_time() - started


@pytest.mark.parametrize("unit", UNITS.values(), ids=UNITS)
def test_forty_kilobytes_take_no_long_time(unit):
    text = (unit * (40_000 // len(unit) + 1))[:40_000]
    assert seconds(label_report, text) < 1
    assert seconds(clean_text, text) < 4


def test_sentences_that_never_repeat_take_no_long_time():
    advice = "".join(f"Recommend CT number {i} of the nodule. " for i in range(1000))
    clauses = "".join(f"opacity {i} and nodule, no effusion " for i in range(1000))
    assert seconds(label_report, clauses) < 4
    assert seconds(clean_text, advice) < 8


def test_a_sentence_that_has_no_end_is_cut_between_words():
    sentence = "no effusion and " * 100
    cut = pieces(sentence)
    assert " ".join(cut) == " ".join(sentence.split()) and max(map(len, cut)) <= MAX_SENTENCE
    assert pieces(" one \n two ") == ["one two"]
    assert [len(piece) for piece in pieces("a" * (2 * MAX_SENTENCE + 1))] == [MAX_SENTENCE, MAX_SENTENCE, 1]


def test_white_space_of_any_length_is_a_break_or_none():
    assert split_sentences("Clear lungs\n \n\n\t\nno effusion") == ["clear lungs", "no effusion"]
    assert split_sentences("Clear   lungs\nno\t effusion") == ["clear lungs no effusion"]


def test_the_labels_of_two_parts_are_the_labels_of_the_whole():
    parts = [
        "No left effusion.",
        "Left effusion, possible pneumonia.",
        "Right effusion. Lungs clear.",
        "Scoliosis.",
        "PICC in place.",
        "Bilateral opacities, cannot exclude edema.",
        "The weather is fine.",
    ]
    for first, second in itertools.product(parts, parts):
        assert labels_of([*read_claims(first), *read_claims(second)]) == label_report(f"{first} {second}")
