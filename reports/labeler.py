"""A rule-based labeler of chest X-ray reports: text to the 14 CheXpert observations, by the words of vocabulary.txt.

A report is judged by what it claims. CheXpert (Irvin et al. 2019, arXiv:1901.07031, section 3 and its published
phrase files) turned reports into 14 labels in three steps, and so do we, in the order of this file:

    1. extract    find the phrases that name an observation, in sentences cut into clauses
    2. classify   each mention by the first rule whose cue reaches it; one that none reaches is positive
    3. aggregate  positive beats uncertain, uncertain beats negative, and "No Finding" follows from the other labels

CheXpert classifies with a dependency parse. We use the *reach* of a cue word instead: "no" reaches to the end of its
statement. That is less precise on long sentences, needs no parser, and can be read as the tables of the vocabulary.

Where we depart from CheXpert, on purpose:
- each label also has a side (left, right, bilateral), since a report that names the wrong lung is a wrong report;
- "stable cardiomediastinal silhouette" is no mention (CheXpert: uncertain), "heart failure" says nothing of heart size;
- a "nodular opacity" is a lesion alone (CheXpert: an opacity too), a "compression deformity" of a vertebra is a
  fracture, a blunted costophrenic angle an uncertain effusion, and fibrosis of the lung is not pleural.

How good it is can be measured against the terms by which people indexed the reports of Open-i.

    python -m reports.labeler "No pneumothorax. Small left effusion, cannot exclude pneumonia."
    python -m reports.labeler measure NLMCXR_reports.tgz
"""

import re
import textwrap
from collections.abc import Iterable, Sequence
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np

from archives.opening import open_source
from archives.sections import ITEM
from common import arguments
from common.errors import UserError, run
from common.observations import OBSERVATIONS
from reports.tables import VALUES, Rule, groups, read_rules, read_tables, replacements

POSITIVE, NEGATIVE, UNCERTAIN = VALUES["positive"], VALUES["negative"], VALUES["uncertain"]

# Characters. A longer sentence is cut: the patterns look back and ahead, so their time grows with a sentence's square,
# and this bound makes a report's time grow with its length. The longest sentence of Open-i's 3,927 reports has 270.
MAX_SENTENCE = 1000
ANSWER = re.compile(  # "Pneumothorax? No."
    r"(?:\?+|(?<!\.)\.{3,})\s*(?=(?:no|not|none|yes|absent|negative|present|trace|small|mild|moderate|severe|large)\b)",
    re.I,
)
STATES = ("Cardiomegaly", "Support Devices", "No Finding")  # "no effusion, cardiomegaly", not a list of what is not
MIDLINE = ("Enlarged Cardiomediastinum", "Cardiomegaly", "No Finding")  # these have no side


class Label(NamedTuple):
    """What a report says about one observation.

    value: 1 positive, 0 negative, -1 uncertain, None not mentioned. side: "left", "right", "bilateral", or None where
    the report names no side, where the label is not positive or uncertain, or where the observation has no side.
    """

    value: int | None
    side: str | None = None


class Mention(NamedTuple):
    """A phrase that names an observation: clause[start:end]. `hedged` phrases are uncertain without any cue."""

    start: int
    end: int
    observation: str
    hedged: bool


class Statement(NamedTuple):
    """clause[start:end], over whose borders no denial reaches, and what it names."""

    clause: str
    start: int
    end: int
    mentions: list[Mention]


class Claim(NamedTuple):
    """What a clause says about one observation, in which words and by which rule: 'no ("without")'."""

    observation: str
    value: int | None
    sides: frozenset[str]
    words: str
    rule: str


_TABLES = read_tables("vocabulary.txt")
_PHRASES = [
    (re.compile(pattern), observation, table == "HEDGED_MENTIONS")
    for table in ("MENTIONS", "HEDGED_MENTIONS")
    for observation, patterns in groups(_TABLES[table])
    for pattern in patterns
]
_NORMAL = [
    (re.compile(rf"\b(?:{it})\b.{{0,90}}?\b{normal}\b|\b{normal}\b(?:[ -][\w-]+){{0,5}}? (?:{it})\b"), observation)
    for normal in [_TABLES["PIECES"]["NORMAL"]]
    for observation, (it,) in groups(_TABLES["NORMAL_STATEMENTS"])
]
_REWRITES = replacements(_TABLES["REWRITES"])
_RULES = read_rules(_TABLES["RULES"])
_PATTERNS = {name: re.compile("|".join(lines)) for name, lines in groups(_TABLES["PATTERNS"])}

# ---- From a report to labels ----------------------------------------------------------------------------------------


def label_report(text: str) -> dict[str, Label]:
    """The 14 CheXpert labels of one report (or of its impression alone), each with its side.

    Every observation of `common.observations` is a key, in that order. Only what the report names is labelled:
    pneumonia does not imply lung opacity. An empty report has 14 blanks; any other has "No Finding" 1 or blank, and 1
    if nothing is positive or uncertain but Support Devices (so "lungs clear, PICC in place" is 1). Findings outside of
    the 14, such as scoliosis, undo it too.
    """
    return labels_of(read_claims(text)) if text.strip() else dict.fromkeys(OBSERVATIONS, Label(None))


def label_reports(texts: Sequence[str]) -> np.ndarray:
    """Labels of N reports as (N, 14) float32, columns as `common.observations`: 1, 0, -1, and nan for blank."""
    rows = [[label.value for label in label_report(text).values()] for text in texts]
    return np.array(rows, dtype=np.float32).reshape(len(texts), len(OBSERVATIONS))


def read_claims(text: str) -> list[Claim]:
    """Every claim of a report, sentence by sentence."""
    return [claim for sentence in split_sentences(text) for claim in read_sentence(sentence)]


@lru_cache(maxsize=1 << 14)  # reports repeat each other's sentences
def read_sentence(sentence: str) -> tuple[Claim, ...]:
    """The claims of a sentence of small letters."""
    claims: list[Claim] = []
    for clause in split_clauses(sentence):
        claims += read_clause(clause, claims[-1].observation if claims else "")
    return tuple(claims)


# ---- 1. Extract -----------------------------------------------------------------------------------------------------


def split_sentences(text: str) -> list[str]:
    """Lower-case sentences of a report, each of MAX_SENTENCE characters at most; an item of a list is one."""
    text = ANSWER.sub(": ", ITEM.sub(". ", single_spaces(text.replace("’", "'"))))
    text = re.sub(r"(?<=[a-z]{2})\.(?=[A-Z])|(?:^|(?<=[\s.]))\(?\d{1,2}[.)] ?(?=[A-Z])", ". ", text).lower()
    text = re.sub(r"\b(?:findings|impression)\s*:|\b(?=(?:comparison|indication)\s*:)", ". ", text)
    text = re.sub(r"(?:^|(?<=[.\n]))\s*\(?\d+[.)]\s", " ", text.replace("? ", " ?. "))
    sentences = re.split(r"(?<![.;!])(?<!\b[lr])(?<!\b[lr]t)[.;!]+(?=\s|$)|\n\s*\n", text)
    return [piece for sentence in sentences for piece in pieces(sentence)]


def split_clauses(sentence: str) -> list[str]:
    """A sentence's clauses, with the words rewritten that only look like a finding."""
    for pattern, new in _REWRITES:
        sentence = pattern.sub(new, sentence)
    return [clause.strip(" ,") for clause in _PATTERNS["clause ends"].split(sentence) if clause.strip(" ,")]


def single_spaces(text: str) -> str:
    """Each run of white space as a blank line, a line break or a space, so that no pattern meets a long run."""
    return re.sub(r"\s+", lambda run: ("\n" * min(run[0].count("\n"), 2)) or " ", text)


def pieces(sentence: str) -> list[str]:
    """The sentence with single spaces, in pieces of at most MAX_SENTENCE characters, cut between words if it can be."""
    return textwrap.wrap(" ".join(sentence.split()), MAX_SENTENCE, break_on_hyphens=False)


def find_mentions(clause: str) -> list[Mention]:
    """Every mention in reading order. Of two that overlap and name the same observation, the longer one stays."""
    found = [
        Mention(*match.span(), observation, hedged)
        for pattern, observation, hedged in _PHRASES
        for match in pattern.finditer(clause)
    ]
    kept: list[Mention] = []
    for mention in sorted(found, key=lambda m: (m.start - m.end, m.hedged)):
        rivals = [other for other in kept if other.start < mention.end and mention.start < other.end]
        same = any(other.observation == mention.observation for other in rivals)
        # A "nodular opacity" is a lesion, "pleural thickening" pleural: the shorter word inside means nothing more.
        inside = any(other.start <= mention.start and mention.end <= other.end for other in rivals)
        if not same and not (inside and mention.observation in ("Lung Opacity", "Lung Lesion", "No Finding")):
            kept.append(mention)
    return sorted(kept)


# ---- 2. Classify ----------------------------------------------------------------------------------------------------


def read_clause(clause: str, before: str) -> list[Claim]:
    """What a clause claims. before: the observation that was named before it: "but a left ONE is seen"."""
    mentions = find_mentions(clause)
    for one in _PATTERNS["one"].finditer(clause):
        names = [mention.observation for mention in mentions if mention.end <= one.start()] or [before]
        if names[-1] and not any(one.start() < mention.end and mention.start < one.end() for mention in mentions):
            mentions = sorted([*mentions, Mention(*one.span(), names[-1], False)])
    cues = [(rule, list(rule.cue.finditer(clause))) for rule in _RULES] if mentions else []
    statements = [Statement(clause, 0, len(clause), mentions)]
    if any(classify(mention, statements[0], cues)[0] == NEGATIVE for mention in mentions):
        statements = find_statements(clause, mentions)  # it matters what the denial reaches
    claims = []
    for statement in statements:
        for mention in statement.mentions:
            value, rule = classify(mention, statement, cues)
            sided = value not in (NEGATIVE, None) and mention.observation not in MIDLINE
            sides = frozenset(_sides(mention, statement) if sided else ())
            claims.append(Claim(mention.observation, value, sides, clause[mention.start : mention.end], rule))
    for pattern, observation in _NORMAL:
        if match := pattern.search(clause):
            claims.append(Claim(observation, NEGATIVE, frozenset(), match[0], "normal"))
    return claims


def find_statements(clause: str, mentions: list[Mention]) -> list[Statement]:
    """The statements of a clause: "no pneumothorax, small effusion" are two, "no edema, effusion, or mass" is one."""
    borders = [0]
    for cut in _PATTERNS["separator"].finditer(clause):
        inside = any(mention.start < cut.start() < mention.end for mention in mentions)
        if not inside and _begins_statement(clause, borders[-1], cut, mentions):
            borders.append(cut.end())
    return [
        Statement(clause, start, end, [mention for mention in mentions if start <= mention.start < end])
        for start, end in pairwise([*borders, len(clause)])
    ]


def _begins_statement(clause: str, start: int, cut: re.Match, mentions: list[Mention]) -> bool:
    """Whether a comma, an "and" or a "with" parts two statements, of which the first begins at `start`."""
    before, after = clause[start : cut.start()], clause[cut.end() :]
    item, *others = re.split("(?=,)", after)
    named = [mention for mention in mentions if start <= mention.start and mention.end <= cut.start()]
    new = [mention for mention in mentions if 0 <= mention.start - cut.end() < len(item)]
    if not new or not (named or _PATTERNS["finding without a name"].search(before)):
        return False  # "no large, layering effusion"
    if named and _PATTERNS["noun follows"].search(clause, named[-1].end, cut.start()):
        return False  # "no pneumothorax or large, layering effusion"
    joined, item = re.fullmatch(r"( and\b|)(.*)", item).groups()
    state, predicate = _PATTERNS["state"].match(item), _PATTERNS["predicate"].search(item)
    if joined or cut[0].isalpha() or cut[0] == "+":  # "no effusion WITH mild edema", "heart IS large and edema IS gone"
        both = predicate and _PATTERNS["predicate"].search(before)
        return bool(state or both or _PATTERNS["course"].match(item))
    if state:
        return not (others and _PATTERNS["list goes on"].match(others[0]))
    if _PATTERNS["list goes on"].search(re.split(r"\b(?:no|without)\b", after)[0]):
        return False
    plain = _PATTERNS["unreal"].fullmatch(after[: new[0].start - cut.end()])
    devices = named and named[-1].observation == new[0].observation == "Support Devices"  # a list of them
    listed = devices or (named and "," in clause[named[0].end : cut.start()])
    return bool(predicate or not (plain or devices) or (new[0].observation in STATES and not listed))


def classify(mention: Mention, statement: Statement, cues: list[tuple[Rule, list[re.Match]]]) -> tuple[int | None, str]:
    """1, 0, -1, or None if nothing is claimed, and the rule that says so. cues: of each rule, those in the clause."""
    clause, _, end, mentions = statement
    for rule, found in cues:
        if rule.reach == "next":
            cue = rule.cue.match(clause, mention.end, end)
        else:
            cue = next((cue for cue in found if _reaches(rule, cue, mention, statement)), None)
        if cue:
            return rule.value, f'{rule.name} ("{cue[0].strip()}")'
    again = [other for other in mentions if other.observation == mention.observation and other.start >= mention.end]
    if again and re.match(r" ?:", clause[mention.end :]):
        return None, "heading"  # "Pneumothorax: no pneumothorax"
    if mention.hedged:
        return UNCERTAIN, "hint"
    earlier, later = _neighbours(mention, [other for other in mentions if other.observation != mention.observation])
    before, after = clause[earlier : mention.start], clause[mention.end : later]
    gaps = (before if earlier is not None else "", after if later is not None else "")
    if any(map(_PATTERNS["alternative"].search, gaps)):
        return UNCERTAIN, "alternative"
    return POSITIVE, "named"


def _reaches(rule: Rule, cue: re.Match, mention: Mention, statement: Statement) -> bool:
    """Whether a mention stands where [RULES] says, seen from the cue."""
    clause, start, end, mentions = statement
    between = (mention.end, cue.start()) if rule.reach == "after" else (cue.end(), mention.start)
    if rule.reach == "after":
        reached = mention.end <= cue.start() and cue.end() <= end
    elif rule.reach == "clause":
        reached = cue.end() <= mention.end
    elif rule.reach == "comma":
        reached = cue.end() <= mention.end and "," not in clause[cue.start() : mention.end]
    elif rule.reach == "upto":
        reached = cue.end() < mention.start and bool(_PATTERNS["few words"].fullmatch(clause, *between))
    else:  # "before" and "object"; the cue may lie inside of the mention, "heart is not large"
        reached = start <= cue.start() < mention.end
        reached &= rule.reach == "before" or not _PATTERNS["object ends"].search(clause, *between)
    if reached and rule.alone:
        others = (other for other in mentions if between[0] <= other.start and other.end <= between[1])
        return all(other.observation == mention.observation for other in others)
    return reached


def _neighbours(mention: Mention, others: Iterable[Mention]) -> tuple[int | None, int | None]:
    """Where the mention before it ends and where the one behind it begins, if there are such."""
    ends = [other.end for other in others if other.end <= mention.start]
    starts = [other.start for other in others if other.start >= mention.end]
    return max(ends, default=None), min(starts, default=None)


def _sides(mention: Mention, statement: Statement) -> set[str]:
    """The sides a mention is given: first its own words, then those of its list ("collapse and fluid on the left")."""
    clause, start, end, mentions = statement
    earlier, later = _neighbours(mention, mentions)

    # "small LEFT effusion"; between two mentions only what follows the last "and", "with" or comma is ours.
    own = clause[earlier or start : mention.end]
    if earlier is not None:
        own = _PATTERNS["sides part"].split(own)[-1]
    if sides := _side_words(own):
        return sides[-1]
    # "effusion on the LEFT"; before another mention everything after the last separator is that one's.
    own = clause[mention.end : later or end]
    if later is not None:
        own = own[: max((match.start() for match in _PATTERNS["sides part"].finditer(own)), default=len(own))]
    if sides := _side_words(own):
        return set().union(*sides)
    # "LEFT collapse and fluid", or, at the end of the list, "collapse and fluid on the LEFT".
    if sides := _side_words(clause[start : mention.start]):
        return sides[-1]
    return set().union(*_side_words(clause[max(other.end for other in mentions) : end]))


def _side_words(text: str) -> list[set[str]]:
    return [{match.lastgroup} for match in _PATTERNS["side"].finditer(text)]


# ---- 3. Aggregate ---------------------------------------------------------------------------------------------------


def labels_of(claims: Iterable[Claim]) -> dict[str, Label]:
    """The labels of a report that claims so. CheXpert's aggregation: positive beats uncertain beats negative."""
    values: dict[str, set[int | None]] = {name: set() for name in OBSERVATIONS}
    sides: dict[str, set[str]] = {name: set() for name in OBSERVATIONS}
    for claim in claims:
        values[claim.observation].add(claim.value)
        sides[claim.observation] |= claim.sides
    labels = {}
    for name in OBSERVATIONS:
        value = next((value for value in (POSITIVE, UNCERTAIN, NEGATIVE) if value in values[name]), None)
        labels[name] = Label(value, "bilateral" if len(sides[name]) > 1 else next(iter(sides[name]), None))
    findings = [labels[name].value for name in OBSERVATIONS if name != "Support Devices"]
    labels["No Finding"] = Label(None if POSITIVE in findings or UNCERTAIN in findings else POSITIVE)
    return labels


# ---- How good it is, and why ----------------------------------------------------------------------------------------


def measure(path: Path) -> str:
    """A table: the labels of Open-i's reports against the MeSH terms that people gave them (`archives.labels.MESH`).

    The rules were written by the reports of even numbers, those of odd numbers test them. A report is labelled whole,
    as it was indexed; those without terms ("No Indexing") are left out. Uncertain counts as positive; MeSH has no
    denials, so negative and blank are one. Raises UserError if `path` is no Open-i.
    """
    source = open_source(path, "all", need_images=False)
    if source.kind != "open-i":
        raise UserError(f"{path}: a set of kind {source.kind} has no MeSH terms; give NLMCXR_reports.tgz of Open-i")
    halves = [([], []), ([], [])]  # even and odd: (what the labeler says, what the terms say), (N, 14) bool each
    for index, record in enumerate(source.records):
        if any(term.lower() != "no indexing" for term in record.extra["mesh"]):
            said, true = halves[int(re.sub(r"\D", "", record.patient) or 0) % 2]
            said.append([bool(label.value) for label in label_report(source.text(index)[0]).values()])
            true.append([bool(record.labels.get(name)) for name in OBSERVATIONS])
    rows = [f"{'':27}", f"{'':27}", *(f"{name:27}" for name in OBSERVATIONS), f"{'macro, of classes with terms':27}"]
    for name, half in zip(("even", "odd"), halves, strict=True):
        said, true = (np.array(each, dtype=bool).reshape(-1, len(OBSERVATIONS)) for each in half)
        terms, labels, both = true.sum(axis=0), said.sum(axis=0), (said & true).sum(axis=0)
        f1 = 2 * both / np.maximum(terms + labels, 1)
        macro = f1[terms > 0].sum() / max(1, (terms > 0).sum())
        cells = [f"{len(true)} {name} reports", f"{'MeSH':>7}{'labeler':>9}{'both':>6}{'F1':>7}"]
        cells += ["{:7}{:9}{:6}{:7.3f}".format(*row) for row in zip(terms, labels, both, f1, strict=True)]
        rows = [row + f"{cell:>32}" for row, cell in zip(rows, [*cells, f"{macro:.3f}"], strict=True)]
    return "\n".join(rows)


def explain(text: str) -> str:
    """For each observation its label, and of each claim that gave it the words and the rule."""
    claims, lines = read_claims(text), []
    for name, label in label_report(text).items():
        word = next(word for word, value in VALUES.items() if value == label.value).replace("blank", ".")
        found = [claim for claim in claims if claim.observation == name and claim.value == label.value]
        why = "; ".join(dict.fromkeys(f'"{claim.words}", {claim.rule}' for claim in found))
        if name == "No Finding" and label.value is not None:
            why = "nothing else is positive or uncertain"
        lines.append(f"{name:<28}{word:<11}{label.side or '':<11}{why}".rstrip())
    return "\n".join(lines)


def main() -> None:
    parser = arguments.Parser(
        description="Label a chest X-ray report with CheXpert's 14 observations, and why; or measure how good that is.",
        epilog='example: python -m reports.labeler "No pneumothorax. Small left effusion, cannot exclude pneumonia."',
    )
    parser.add_argument("text", type=arguments.text, help='the text of a report in quotes, or the word "measure"')
    file = "measure: the reports of Open-i, NLMCXR_reports.tgz"
    parser.add_argument("reports", nargs="?", type=arguments.path, help=file)
    args = parser.parse_args()
    measured = args.text == "measure"
    if measured != (args.reports is not None) or not args.text.strip():
        raise UserError("text: give one report in quotes, or measure and NLMCXR_reports.tgz of Open-i")
    print(measure(arguments.existing(str(args.reports))) if measured else explain(args.text))


if __name__ == "__main__":
    run(main)
