"""A report as one text -> its findings and its impression."""

from __future__ import annotations

import re
from difflib import get_close_matches
from functools import lru_cache

from archives.tables import whole_characters

# A heading: capitals at the start of a line up to a colon, or a well-known name in any case; or, without a colon, the
# line between a wet read or an addendum and the report proper.
KNOWN = (
    r"findings?|impressions?|conclusions?|indications?|comparisons?|techniques?|history|recommendations?"
    r"|exam(?:ination)?|clinical (?:history|information|indication)"
)
HEADING = re.compile(
    rf"^[ \t]*(?:([A-Z][A-Z0-9 \t()/,.&'#_-]{{1,80}}?|(?i:{KNOWN})[ \t]*):(?!\d)"
    r"|(?:FINAL (?:REPORT|ADDENDUM)|_{20,})[ \t]*$)",
    re.MULTILINE,
)
# The same inside a line, for reports that lost their line breaks: only after an end of words, and only long capitals.
INLINE = re.compile(r"(?<=[a-z0-9.:;!?)\]_])[ \t]+(?=(?:FINDINGS?|IMPRESSIONS?|CONCLUSIONS?)\b[A-Z/ ]{0,20}:)")
INLINE_ANY = re.compile(r"(?<=[.:;!?)\]_])\s+(?=[A-Z][A-Z ]{3,40}(?:\(S\))?:)")
# A line break that begins an item of a list, not one in the middle of a sentence.
ITEM = re.compile(
    r"(?<![\s,.;:!?])(?<!\b(?:of|in|or|to|at|an|is|no))(?<!\b(?:the|and|nor|are|for|Dr\.))(?<!\b(?:with|from))"
    r"[ \t]*\n\s*(?=(?:\d{1,2}[.)]|[-*•–])\s|[A-Z][a-z]|[A-Z][A-Z ,/&]{2,40}:)"
)
VIEWS = re.compile(r"CHEST|PORTABLE|\bVIEWS?\b|\b(?:PA|AP|FRONTAL)\b|LATERAL|BONE WINDOW|\bRIBS\b|RADIOGRAPH")
NAMED = ("IMPRESSION", "CONCLUSION", "SUMMARY", "OPINION", "FINDINGS", "FINDING")
OTHER = ("COMPARISON", "INDICATION", "EXAMINATION", "HISTORY", "TECHNIQUE", "RECOMMENDATION", "NOTIFICATION")


@lru_cache(maxsize=10000)
def section_of(heading: str) -> str:
    """ "FINDINGS AND IMPRESSION" -> "impression"; misspellings count, as in MIMIC's list of them ("IMPERSSION")."""
    words = re.findall(r"[A-Z]+", heading.upper())
    names = {match for word in words for match in get_close_matches(word, NAMED + OTHER, n=1, cutoff=0.8)}
    if not words or re.search(r"ADDEND|WET ?READ|PRELIM", heading.upper()):
        return "other"
    if names & set(NAMED[:4]):
        return "impression"
    if names & set(NAMED[4:]):
        return "findings"
    if names or re.search(r"\bEXAM|REASON|CLINICAL|REFERENCE|\bCOMPAR", heading.upper()):
        return "other"
    return "views" if VIEWS.search(heading.upper()) else "other"


def split_report(text: str, last_paragraph: bool = True) -> tuple[str, str]:
    """(findings, impression) of a report, white space collapsed, "" for what it lacks.

    As MIMIC-CXR's section_parser.py finds them: a section runs to the next heading, several of a name are joined, and
    one named by the views ("CHEST, PA AND LATERAL:") holds the findings if no other does. Wet reads and addenda are
    neither. If nothing is found and `last_paragraph`, what follows the last heading's own paragraph is the impression,
    or the last paragraph where there is no heading.
    """
    text = INLINE.sub("\n", whole_characters(text).replace("\r\n", "\n").replace("\r", "\n"))
    if text.strip().count("\n") <= 2:
        text = INLINE_ANY.sub("\n", text)
    heads = list(HEADING.finditer(text))
    found: dict[str, list[str]] = {"findings": [], "impression": [], "views": [], "other": []}
    ends = [head.start() for head in heads[1:]] + [len(text)]
    for head, end in zip(heads, ends[: len(heads)], strict=True):
        body = " ".join(text[head.end() : end].split())
        section = section_of(head[1] or "")
        if body and body not in found[section]:
            found[section].append(body)
    findings, impression = (" ".join(found[name]) for name in ("findings", "impression"))
    findings = findings or " ".join(found["views"])
    if not (findings or impression) and last_paragraph:
        headed = bool(heads and heads[-1][1])
        if headed and re.search(r"ADDEND|WET ?READ|PRELIM", heads[-1][1].upper()):
            return "", ""
        paragraphs = re.split(r"\n[ \t]*\n", text[heads[-1].end() if heads else 0 :])
        paragraphs = [" ".join(p.split()) for p in (paragraphs if headed else filter(str.strip, paragraphs))]
        impression = " ".join(paragraphs[1:] if headed else paragraphs[-1:]).strip()
    return findings, impression
