"""Cleaning by rules: the tables of rules.txt, free and offline. `clean_text` applies them.

What a picture cannot show goes (blanks, dates, comparisons, calls, advice), what it shows stays. Each sentence passes
through the tables in this order: ADVICE, DROPPED, EXAMINATION, COMPARISONS, REPAIRS; TECHNIQUE and ANATOMY find the
sentences that say nothing any more. UniX's own references keep words of comparison: `keep_comparisons` does too.
"""

import re
from collections.abc import Iterator
from functools import lru_cache

from archives.sections import ITEM
from reports import labeler
from reports.tables import read_tables, replacements

BLANK = "□"

_TABLES = read_tables("rules.txt")
_HEADER = re.compile(
    r"(?:^|(?<=[.:\n□¶]))\s*\b(?:(findings|impressions?|conclusions?|opinion|(?:final |wet )?re(?:port|ad)|chest)"
    rf"|({_TABLES['PIECES']['OTHER']})) *:",
    re.I,
)
_DROPPED = re.compile("|".join(_TABLES["DROPPED"]), re.I)
_ADVICE, _REPAIRS, _EXAMINATION = (replacements(_TABLES[name], re.I) for name in ("ADVICE", "REPAIRS", "EXAMINATION"))
_REWRITES = {  # keep comparisons?
    False: _EXAMINATION + replacements(_TABLES["COMPARISONS"], re.I),
    True: _EXAMINATION + replacements(_TABLES["KEPT_COMPARISONS"], re.I),
}
_TECHNIQUE, _ANATOMY = (
    re.compile(rf"(?:\b(?:{'|'.join(' '.join(_TABLES[name]).split())})\b[\s,.()/-]*)+", re.I)
    for name in ("TECHNIQUE", "ANATOMY")
)


def clean_text(text: str, keep_comparisons: bool = False) -> str:
    """One text (findings, an impression, or a report with its headers) by the rules alone; "" if nothing is left.

    A sentence of advice, calls or courtesy goes unless it is the only one to name some observation.
    """
    for _ in range(4):  # a word taken out may let another rule match; a text cleaned twice must equal one cleaned once
        before, text = text, _clean_once(text, keep_comparisons)
        if text == before:
            break
    return text


def _clean_once(text: str, keep_comparisons: bool) -> str:
    kept: list[tuple[str, bool]] = []  # (cleaned sentence, is it to be dropped?)
    for sentence in _sentences(text):
        for pattern, _ in _ADVICE:
            if not sentence.lower().startswith("if "):
                sentence = pattern.sub(lambda tail: tail[0] if _named(tail[0]) else "", sentence)
        drop = bool(_DROPPED.search(sentence))
        if cleaned := _reworded(sentence, keep_comparisons):
            kept.append((cleaned, drop))
    others = " ".join(sentence for sentence, drop in kept if not drop)
    known = _claims(others)
    for index, (sentence, drop) in enumerate(kept):
        if drop and _named(sentence):
            together = known | _claims(sentence)
            if labeler.labels_of(together) != labeler.labels_of(known):
                kept[index] = (sentence, False)
                known = together
    return " ".join(sentence for sentence, drop in kept if not drop)


def _sentences(text: str) -> Iterator[str]:
    """The sentences of the sections that describe the picture, blanks marked, list numbers and headers off."""
    text = labeler.ANSWER.sub(": ", ITEM.sub(".\n", labeler.single_spaces(text.replace("\r", ""))))
    text = re.sub(r"<br ?/?>|^\s*FINAL REPORT\s*$", "\n", text, flags=re.I | re.M)
    text = re.sub(r"\[\*\*(?:(?!\[\*\*).)*?\*\*\]|_{2,}|\bX{3,}", BLANK, text, flags=re.S)
    # "Views of the chest with overlying leads show ...": the leads are in the picture.
    leads = r"\b(views? of the chest) with (overlying [\w ]{1,99}?) (?:shows?|demonstrates?) "
    text = re.sub(leads, r"\1. \2. ", text, flags=re.I)
    text = re.sub(r"\n\s*\n", "¶", text.strip())
    sections = []  # (is it about the picture?, does a header follow?, its text)
    start, about = 0, True
    for header in _HEADER.finditer(text):
        sections.append((about, True, text[start : header.start()]))
        start, about = header.end(), not header[2]
    sections.append((about, False, text[start:]))
    for about, ended, piece in sections:
        piece = re.sub(r"(?:^|(?<=[.\n:])(?=\s)|(?<=[\n:¶]))\s*(?:\(?\d{1,2}[.)]|[-*•●▪–])(?=\s|[A-Z])", "¶", piece)
        short = r"\b(dr|mr|mrs|ms|vs|[lr]t|a\.m|p\.m|(?:by|with|to) [a-z])\.(?=\s+[\w□])"
        piece = re.sub(short, r"\1", piece, flags=re.I)
        paragraphs = [part for part in piece.split("¶") if part.strip()]
        if not about and (ended or len(paragraphs) > 1):
            paragraphs, about = paragraphs[1:], True
        parts = [part for one in paragraphs for part in re.split(r"(?<=[.!?;])\s+|(?<=[a-z]{2}\.)(?=[A-Z])", one)]
        # "COMPARISON: None. Heart normal." with neither a header nor an empty line after it: only a sentence goes.
        yield from (piece for part in parts[0 if about else 1 :] for piece in labeler.pieces(part))


@lru_cache(maxsize=1 << 14)  # as in reports/labeler.py: reports repeat each other's sentences
def _reworded(sentence: str, keep_comparisons: bool) -> str:
    """`_rewrite` of a sentence; if that loses a finding, of each of its statements, or with its comparisons.

    A comparison may be all that keeps a denial off: "no edema, PERSISTENT effusion" becomes "No edema. Effusion."
    """
    statements = labeler.find_statements(sentence.lower(), labeler.find_mentions(sentence.lower()))
    parts = [re.sub(r"(?:,| and| with)? *$", "", sentence[each.start : each.end]) for each in statements]
    cleaned = _rewrite(sentence, keep_comparisons)
    apart = " ".join(_rewrite(part, keep_comparisons) for part in parts)
    found = _findings(sentence)
    good = (each for each in (cleaned, apart, _rewrite(sentence, True)) if found <= _findings(each))
    return next(good, cleaned) if cleaned else ""


def _findings(text: str) -> set[str]:
    """The observations that a text affirms or calls possible."""
    said = (labeler.POSITIVE, labeler.UNCERTAIN)
    return {claim.observation for claim in _claims(text) if claim.value in said} - {"No Finding"}


def _rewrite(sentence: str, keep_comparisons: bool) -> str:
    """One sentence by the tables from EXAMINATION to REPAIRS; "" if it said nothing about the picture."""
    end = "?" if sentence.endswith("?") else "."
    sentence = sentence.strip(" .;!?")
    for pattern, new in _REWRITES[keep_comparisons]:
        sentence = pattern.sub(new, sentence)
    for pattern, new in _REPAIRS:
        sentence = pattern.sub(new, sentence)
    sentence = sentence.strip(" .,;:-!?")
    if not re.search(r"[A-Za-z]{2}", sentence) or _TECHNIQUE.fullmatch(sentence) or _ANATOMY.fullmatch(sentence):
        return ""
    sentence = re.sub(r"^No [A-Z](?=[a-z])", lambda start: start[0].capitalize(), sentence)  # "No Left effusion"
    return f"{sentence[0].upper()}{sentence[1:]}{end}"


def _claims(text: str) -> set[labeler.Claim]:
    """What a text claims, in whatever words: so few that `labeler.labels_of` takes no time."""
    return {claim._replace(words="", rule="") for claim in labeler.read_claims(text)}


def _named(text: str) -> bool:
    return any(claim.value is not None and claim.observation != "No Finding" for claim in labeler.read_claims(text))
