"""A page is read back with the standard library's HTML parser: what it shows must be what it was given."""

import base64
import io
import json
import re
from html.parser import HTMLParser

import numpy as np
from PIL import Image

from common.observations import OBSERVATIONS
from evaluation import page
from evaluation.results import PAPER, beside_paper, paper
from evaluation.tables import Paragraph, Table, text

NASTY = '<script src="http://example.org/x.js">alert(1)</script> & "quoted" \'single\''


class Reader(HTMLParser):
    """elements: [tag, attributes, text] in order of their start; tags that do not balance fail."""

    def __init__(self, html):
        super().__init__()
        self.elements, self.open = [], []
        self.feed(html)
        self.close()
        assert not self.open, f"never closed: {self.open}"

    def handle_startendtag(self, tag, attributes):
        self.elements.append([tag, dict(attributes), ""])

    def handle_starttag(self, tag, attributes):
        self.elements.append([tag, dict(attributes), ""])
        if tag not in ("meta", "img"):
            self.open.append(self.elements[-1])

    def handle_endtag(self, tag):
        assert self.open.pop()[0] == tag

    def handle_data(self, data):
        for element in self.open:
            element[2] += data

    def all(self, tag, **attributes):
        return [e for e in self.elements if e[0] == tag and attributes.items() <= e[1].items()]

    def texts(self, tag, **attributes):
        return [text for _, _, text in self.all(tag, **attributes)]


def rows_of(html):
    """The texts of the cells of each row."""
    rows = re.findall(r"<tr.*?</tr>", html, flags=re.DOTALL)
    return [[text for tag, _, text in Reader(row).elements if tag in ("td", "th")] for row in rows]


def everything(words):
    blocks = [
        page.heading(words),
        Paragraph(words),
        Table([words, "x"], [words, [words, 1.0]], words, words, [(words, 2)], ours=[1]),
        page.pictures([(np.zeros((4, 4), np.uint8), words)]),
    ]
    return page.page(words, blocks, words)


def test_the_document_is_whole_and_every_text_escaped():
    html = everything(NASTY)
    read = Reader(html)
    assert html.startswith("<!DOCTYPE html>")
    assert read.all("meta", charset="utf-8")
    assert not read.all("script")
    assert read.texts("title") == read.texts("h1") == read.texts("footer") == [NASTY]
    assert read.texts("h2") == [NASTY] * 2 and read.texts("p") == [NASTY, NASTY]
    assert read.all("img")[0][1]["alt"] == NASTY
    assert "<script" not in html
    assert "&amp;lt;" not in html  # nor escaped twice


def test_nothing_is_loaded_from_elsewhere():
    read = Reader(everything("words"))
    addresses = [a[name] for _, a, _ in read.elements for name in ("src", "href", "srcset", "data") if name in a]
    assert len(addresses) == 1
    assert addresses[0].startswith("data:image/png;base64,")
    assert not read.all("link") + read.all("iframe") + read.all("object")
    assert "url(" not in page.STYLE
    assert "@import" not in page.STYLE
    policy = next(a["content"] for _, a, _ in read.elements if a.get("http-equiv") == "Content-Security-Policy")
    assert "default-src 'none'" in policy


def test_a_picture_of_the_pages_size_comes_back_exactly():
    array = np.random.default_rng(0).integers(0, 256, (page.SIDE, page.SIDE), dtype=np.uint8)
    image = Reader(page.pictures([(array, "a"), (255 - array, "b")])).all("img")
    for element, expected in zip(image, (array, 255 - array), strict=True):
        data = base64.b64decode(element[1]["src"].partition(",")[2], validate=True)
        np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(data))), expected)


def test_a_table_shows_the_numbers_it_was_given():
    rows = [
        ["Edema", "7B", 0.91249, 1024, (0.912, 0.898, 0.925)],
        ["Fracture", None, None, 7, (-0.5, -0.75, float("nan"))],
        ["Pleural Other", "-", float("nan"), np.int64(3), (None, None, None)],
        ["Support Devices", "<1B", np.float32(0.5), 0, (12.0, None, None)],
    ]
    table = Table(["class", "size", "F1", "n", "with interval-95"], rows, decimals=[0, 0, 3, 0, 2], intervals=True)
    html = page.html_of(table)
    assert rows_of(html) == [
        ["class", "size", "F1", "n", "with interval\u201195"],
        ["Edema", "7B", "0.912", "1024", "0.91 0.90 to 0.93"],
        ["Fracture", "–", "–", "7", "−0.50"],
        ["Pleural Other", "-", "–", "3", "–"],
        ["Support Devices", "<1B", "0.500", "0", "12.00"],
    ]
    assert Reader(html).texts("small") == ["0.90 to 0.93"]
    # Columns with numbers are right-aligned, with their headers; columns of text are not.
    assert Reader(html).texts("th", **{"class": "number"}) == ["F1", "n", "with interval\u201195"]
    assert len(Reader(html).all("td", **{"class": "number"})) == 3 * 4
    # The terminal prints the same.
    assert text(table).splitlines() == [
        "class            size     F1     n     with interval-95",
        "Edema              7B  0.912  1024  0.91 (0.90 to 0.93)",
        "Fracture            –      –     7                -0.50",
        "Pleural Other       -      –     3                    –",
        "Support Devices   <1B  0.500     0                12.00",
    ]


def test_the_interval_of_negative_numbers_can_be_read():
    table = Table(["x", "y"], [["a", (-0.69, -0.759, -0.634)]], intervals=True)
    assert rows_of(page.html_of(table))[1] == ["a", "−0.690 −0.759 to −0.634"]
    assert text(table).endswith("-0.690 (-0.759 to -0.634)")


def test_sections_tints_and_groups():
    rows = ["first", ["a", 1.0, 5], ["b", 3.0, 5], "second", ["c", 9.0, None], ["d", (2.0, 1.0, 9.5), 4]]
    table = Table(["m", "up", "down"], rows, "Title", "Note.", [("", 1), ("wide", 2)], 1, ours=[5])
    html = page.html_of(table)
    read = Reader(html)
    assert rows_of(html)[:3] == [["", "wide"], ["m", "up", "down"], ["first"]]
    assert [a["colspan"] for _, a, _ in read.all("th", **{"class": "group"})] == ["1", "2"]
    assert [e[1]["colspan"] for e in read.all("th") if e[2] in ("first", "second")] == ["3", "3"]
    assert read.texts("tr", **{"class": "ours"}) == ["d2.0 1.0 to 9.54"]
    assert read.texts("h2") == ["Title"] and read.texts("p") == ["Note."]
    lines = [
        "    wide",
        "m   up  down",
        "first",
        "a  1.0     5",
        "b  3.0     5",
        "second",
        "c  9.0     –",
        "d  2.0     4",
    ]
    assert text(table).split("\n\n") == ["Title", "\n".join(lines), "Note."]


# ---- the paper's tables ------------------------------------------------------------------------------------------


def row(number, model, resolution=None):
    (found,) = (r for r in paper(number)["rows"] if r["model"] == model and r.get("resolution") == resolution)
    return found


def test_every_row_of_the_papers_tables_fits_its_columns():
    sizes = {2: (10, 8), 3: (10, 7), 4: (6, 14), 5: (5, 4)}
    for number, (height, width) in sizes.items():
        table = paper(number)
        assert (len(table["rows"]), len(table["columns"])) == (height, width)
        assert {len(r["values"]) for r in table["rows"]} == {width}
        assert {c["better"] for c in table["columns"]} <= {"higher", "lower"}
        assert table["source"] == f"UniX, Table {number}"
    assert list(json.loads(PAPER.read_text(encoding="utf-8"))["tables"]) == [str(n) for n in sizes]


def test_values_of_the_paper():
    columns = [(c["uncertain"], c["name"]) for c in paper(2)["columns"]]
    unix = dict(zip(columns, row(2, "UniX")["values"], strict=True))
    assert unix["negative", "Macro F1-14"] == 33.2
    assert unix["positive", "Macro F1-14"] == 35.5
    assert unix["positive", "Macro F1-5"] == 49.8
    assert row(2, "Med-PaLM M")["values"] == [53.6, 57.9, 39.8, 51.6, None, None, None, None]
    assert row(3, "UniX", 512)["values"] == [54.022, 0.024, 0.635, 0.736, 0.479, 0.536, 0.550]
    assert (row(3, "Sana", 512)["finetuned"], row(3, "RadEdit", 512)["finetuned"]) == (True, False)
    assert row(4, "UniX", 512)["values"][-1] == 47.04
    assert paper(5)["rows"][0]["values"] == [53.2, 36.0, 62.114, 0.041]


def test_table_4_says_what_the_paper_says_of_it():
    """Its caption: of the unified models UniX is best in 13 of the 14 categories."""
    table = paper(4)
    names = [c["name"] for c in table["columns"]]
    assert names == sorted(OBSERVATIONS)
    unified = {
        f"{r['model']} {r['resolution']}": r["values"] for r in table["rows"] if r["group"].startswith("Unified")
    }
    best = [min(unified, key=lambda model, k=k: unified[model][k]) for k in range(len(names))]
    assert [name for name, model in zip(names, best, strict=True) if model != "UniX 512"] == ["Fracture"]


def test_a_run_stands_above_the_papers_rows():
    table = beside_paper(2, "Title", {"this run": [50.0] * 8}, "judge", "Note.")
    assert table.rows[:2] == ["This run; judge", ["this run", None, *[50.0] * 8]] and table.rows[-1][0] == "UniX"
    assert [span for _, span in table.groups] == [2, 4, 4] and table.headers[2] == "Micro-14\u00a0↑"
    assert beside_paper(3, "Title", {"this run": [1.0] * 7}, "judge", "").groups == ()
