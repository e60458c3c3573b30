"""A report as one text -> its findings and its impression; every archive that has whole reports reads them here."""

import html
import re
from difflib import get_close_matches
from functools import lru_cache

from archives.tables import whole_characters

# A heading: capitals at the start of a line up to a colon, or a well-known name in any case; or, without a colon, a
# name on a line of its own, or the line between a wet read or an addendum and the report proper.
NAMES = r"(?:findings?|impressions?|conclusions?)"
KNOWN = (
    r"(?:(?:clinical|revised|final|provisional|updated|overall)[ \t]+)?"
    rf"(?:{NAMES}|indications?|comparisons?|techniques?|history|recommendations?|exam(?:ination)?|clinical information)"
)
HEADING = re.compile(
    rf"^[ \t]*(?:([A-Z][A-Z0-9 \t()/,.&'#_-]{{1,80}}?|(?i:{KNOWN})[ \t]*):(?!\d)"
    r"|((?:FINDING|IMPRESSION|CONCLUSION|Finding|Impression|Conclusion)[Ss]?)[ \t]*$"
    r"|(?:FINAL (?:REPORT|ADDENDUM)|_{20,})[ \t]*$)",
    re.MULTILINE,
)
# The same inside a line, for reports that lost their line breaks: any name after the end of a sentence, findings and
# impression after any word. In a text of one line other long capitals are headings, too.
INLINE = re.compile(
    rf"(?<=[.;!?)\]])[ \t]+(?=(?i:{KNOWN})[ \t]?:)"
    r"|(?<=[a-z0-9.:;!?)\]_])[ \t|]*(?=(?:FINDINGS?|IMPRESSIONS?|CONCLUSIONS?)\b[A-Z/ ]{0,20}:)"
    r"|(?<=[a-z0-9:_])[ \t]+(?=(?:Findings?|Impressions?|Conclusions?)[ \t]?:)"
)
# Findings and impression with another sign than a colon: "[FINDINGS] ...", "IMPRESSION - ...".
UPPER = r"\b(?:FINDINGS?|IMPRESSIONS?|CONCLUSIONS?)\b"
MARKED = re.compile(
    rf"(?:[\[<({{]|\*\*)({UPPER}|(?<=\*)(?i:{NAMES}))(?:[\])>}}]|\*\*):?|((?m:^[ \t]*(?i:{NAMES}))|{UPPER}) *[-–—]+ "
)
NUMBERED = re.compile(rf"(?<!\S)\(?(?:\d|I{{1,3}})[.)][ \t]+(?={UPPER}|(?i:{NAMES})[ \t]*:)")  # "2. IMPRESSION: ..."
INLINE_ANY = re.compile(r"(?<=[.:;!?)\]_])\s+(?=[A-Z][A-Z ]{3,40}(?:\(S\))?:)")
# A line break that begins an item of a list, not one in the middle of a sentence.
ITEM = re.compile(
    r"(?<![\s,.;:!?])(?<!\b(?:of|in|or|to|at|an|is|no))(?<!\b(?:the|and|nor|are|for|Dr\.))(?<!\b(?:with|from))"
    r"[ \t]*\n\s*(?=\(?\d{1,2}[.)](?!\d)|[-*–]\s|[•●▪]|(?!Swan|Dobb|Kerley|Port)[A-Z][a-z]|[A-Z][A-Z ,/&]{2,40}:)"
)
NAMED = ("IMPRESSION", "CONCLUSION", "SUMMARY", "OPINION", "FINDINGS", "FINDING")
OTHER = ("COMPARISON", "INDICATION", "EXAMINATION", "HISTORY", "TECHNIQUE", "RECOMMENDATION", "NOTIFICATION")
EARLIER = re.compile(r"ADDEND|WET ?READ|PRELIM|^END\b")  # neither findings nor impression
ABOUT = re.compile(  # the examination or the paper, not the film
    r"\bEXAM|REASON|CLINICAL|REFERENCE|\bCOMPAR|SIGNED|DICTAT|TRANSCRI|ATTENDING|PHYSICIAN|RADIOLOGIST|DOCTOR|\bDR\b"
    r"|\b(?:CC|BY|MRN|DATE|TIME|STATUS|PATIENT|NAME|ACCESSION|ICD|CPT|CODES?)\b"
)
VIEWS = re.compile(r"CHEST|PORTABLE|\bVIEWS?\b|\b(?:PA|AP|FRONTAL)\b|LATERAL|BONE WINDOW|\bRIBS\b|RADIOGRAPH")
PARTS = re.compile(
    r"LUNG|HEART|CARDI|PLEURA|MEDIASTIN|\bHIL[AU]|VASCUL|AORTA|AIRWAY|TRACHEA|BONE|OSSEOUS|SPINE|SOFT TISSUE|ABDOMEN"
    r"|DIAPHRAGM|LINES|TUBES|DEVICES|HARDWARE|THORAX|EFFUSION|CONSOLIDATION"
)


@lru_cache(maxsize=10000)
def section_of(heading: str) -> str:
    """ "FINDINGS AND IMPRESSION" -> "impression"; misspellings count, as in MIMIC's list of them ("IMPERSSION").

    "views" and "parts" name what is described ("CHEST, PA AND LATERAL", "LINES AND TUBES"), "other" is about something
    else, and "unknown" may be anything.
    """
    heading = heading.upper()
    names = {
        match for word in re.findall(r"[A-Z]+", heading) for match in get_close_matches(word, NAMED + OTHER, 1, 0.8)
    }
    if not re.search("[A-Z]", heading) or EARLIER.search(heading):
        return "other"
    if names & set(NAMED):
        return "impression" if names & set(NAMED[:4]) else "findings"
    if names or ABOUT.search(heading):
        return "other"
    return "views" if VIEWS.search(heading) else "parts" if PARTS.search(heading) else "unknown"


def plain_lines(text: str) -> str:
    """A text as its writer saw it: no HTML, no Markdown, and a line break for each sign of one."""
    text = html.unescape(whole_characters(text)).replace("\xa0", " ")
    text = re.sub(r"(?i)\r\n?|\\r\\n|\\n|<(?:br|/?(?:p|div|ul|ol|li|tr|h\d))\b[^<>]{0,80}>", "\n", text)
    text = re.sub(r"(?i)\\t|</?(?:b|i|u|em|strong|span|font|td|body|html)\b[^<>]{0,80}>", " ", text)
    text = re.sub(r"^[ \t]*[-=*~]{3,}[ \t]*\n", "", text.replace("：", ":"), flags=re.MULTILINE)
    text = NUMBERED.sub("", text)
    text = MARKED.sub(lambda heading: f"{heading[1] or heading[2]}: ", text)
    text = re.sub(r"^[ \t]*#{1,6}[ \t]+([^\n#]{1,80}?)[ \t#:]*$", r"\1:", text, flags=re.MULTILINE)
    return re.sub(r"(?<![\w*\[])(\*{1,3}|_{1,2})(?=[A-Za-z])([^*_\n]{1,80}?)\1(?![\w*\]])", r"\2", text)


def joined(lines: str) -> str:
    """The text of one section: white space collapsed, but for the line breaks that begin an item of a list."""
    return "\n".join(" ".join(item.split()) for item in ITEM.split(lines.strip()))


def read_section(text: str) -> str:
    """The text of one section that stands by itself."""
    return joined(plain_lines(text))


def split_report(text: str, last_paragraph: bool = True) -> tuple[str, str]:
    """(findings, impression) of a report, "" for what it lacks.

    As MIMIC-CXR's section_parser.py finds them: a section runs to the next heading that begins another, and of several
    impressions (provisional, revised) the last is the one. Several findings are joined; a part of the body in capitals
    ("LUNGS:") does not end them. Without findings, what is named by views ("CHEST, PA AND LATERAL:") or by parts of the
    body is the findings. Wet reads and addenda are neither. If nothing is found and `last_paragraph`, what follows the
    last heading's own paragraph is the impression, or the last paragraph where there is no heading.
    """
    text = INLINE.sub("\n", plain_lines(text))
    if text.strip().count("\n") <= 2:
        text = INLINE_ANY.sub("\n", text)
    heads: list[tuple[re.Match, str]] = []
    for head in HEADING.finditer(text):
        section, inside = section_of(head[1] or head[2] or ""), heads[-1][1] if heads else "other"
        ends = section in ("findings", "impression", "other") or section == inside == "views"
        if ends or inside in ("other", "unknown"):  # else it is a heading inside of a section
            heads.append((head, section))
    found: dict[str, list[str]] = {}
    for (head, section), end in zip(heads, [head.start() for head, _ in heads[1:]] + [len(text)], strict=False):
        body = joined(text[head.start() if section == "parts" else head.end() : end])
        if body and body not in found.setdefault(section, []):
            found[section].append(body)
    findings, impression = " ".join(found.get("findings", [])), found.get("impression", [""])[-1]
    findings = findings or " ".join(found.get("views") or found.get("parts", []))
    if findings or impression or not last_paragraph:
        return findings, impression
    last = heads[-1][0] if heads else None
    headed = bool(last and last[1])
    if headed and EARLIER.search(last[1].upper()):
        return "", ""
    paragraphs = re.split(r"\n[ \t]*\n", text[last.end() if last else 0 :])
    if headed:
        return "", " ".join(joined(paragraph) for paragraph in paragraphs[1:]).strip()
    return "", joined(next(filter(str.strip, reversed(paragraphs)), ""))
