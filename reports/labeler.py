"""A rule-based labeler of chest X-ray reports: text to the 14 CheXpert observations, by tables of phrases.

A report is judged by what it claims. CheXpert (Irvin et al. 2019, arXiv:1901.07031, section 3 and its published
phrase files) turned reports into 14 labels in three steps, and so do we:

    1. extract    find the phrases that name an observation               MENTIONS, HEDGED_MENTIONS, NORMAL_STATEMENTS
    2. classify   is each mention asserted, denied or uncertain?          NEGATION_*, UNCERTAINTY_*, NO_CLAIM_*
    3. aggregate  positive beats uncertain, uncertain beats negative, and "No Finding" follows from the other labels

CheXpert classifies with a dependency parse. We use the *scope* of a cue word instead: "no" reaches to the end of its
clause. That is less precise on long sentences, needs no parser, and can be read as the tables below. To teach the
labeler a new wording, add a line to a table and a sentence to `tests/reports/test_labeler.py`.

Where we depart from CheXpert, on purpose:
- each label also has a side (left, right, bilateral), since a report that names the wrong lung is a wrong report;
- "stable cardiomediastinal silhouette" is no mention (CheXpert: uncertain), "heart failure" says nothing of heart size;
- a "nodular opacity" is a lesion alone (CheXpert: an opacity too), a "compression deformity" of a vertebra is a
  fracture, a blunted costophrenic angle an uncertain effusion, and fibrosis of the lung is not pleural.

How good it is can be measured against the terms by which people indexed the reports of Open-i.

    python -m reports.labeler "No pneumothorax. Small left effusion, cannot exclude pneumonia."
    python -m reports.labeler measure NLMCXR_reports.tgz
"""

from __future__ import annotations

import argparse
import re
import textwrap
import time
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from itertools import chain
from pathlib import Path
from typing import NamedTuple

import numpy as np

from archives.labels import mesh_labels
from archives.opening import open_source
from common import arguments
from common.errors import UserError, run
from common.observations import OBSERVATIONS

POSITIVE, NEGATIVE, UNCERTAIN = 1, 0, -1

# Characters. A longer sentence is cut: the patterns look back and ahead, so their time grows with a sentence's square,
# and this bound makes a report's time grow with its length. The longest sentence of Open-i's 3,927 reports has 270.
MAX_SENTENCE = 1000


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


# ---------------------------------------------------------------------------------------------------------------------
# 1. The words. All patterns see lower-case text, one clause at a time.

# The words that may stand between "heart" and "enlarged"; what is called normal is not what is called enlarged.
GAP = r"(?:(?!normal|unremarkable|within|lymph|calcifi)[\w\s/-]){0,50}?"
HEART = r"(?:heart|cardiac)(?: and mediastinal)?(?: silhouettes?| size| shadow| contours?)?"
MEDIASTINUM = (
    r"(?:cardio ?-?mediastin(?:al|um)|mediastin(?:al|um))(?: silhouettes?| contours?| borders?| shadow| width)?"
)
LARGE = r"(?:enlarge(?:d|ment)|large|larger|widen(?:ed|ing)|wide|prominent|prominence|dilated|increased)"
FULL = r"(?:prominen(?:t|ce)|indistinct(?:ness)?|engorge(?:d|ment)|increased)"
MIDDLE = r"(?: of)?(?: the)?(?: transverse)?(?: diameter of the)? "

MENTIONS: dict[str, list[str]] = {
    "Enlarged Cardiomediastinum": [
        rf"\b{MEDIASTINUM}\b{GAP}\b{LARGE}\b",
        rf"\b{LARGE}{MIDDLE}(?:\w+ )?{MEDIASTINUM}\b",
    ],
    "Cardiomegaly": [
        r"\bcardiomegaly\b",
        r"\bcardiac enlargement\b",
        rf"\b{HEART}\b{GAP}\b(?:enlarge(?:d|ment)|large|larger|prominent|dilated|increased)\b",
        rf"\b(?:enlarge(?:d|ment)|prominent|prominence|large){MIDDLE}{HEART}\b",
        rf"\bincreased?(?: in)?(?: the)?(?: size of)?(?: the)? {HEART}\b",
        r"\bcardio-?thoracic (?:ratio|index)\b.{0,30}\b(?:increased|enlarged|elevated|above)\b",
        r"\bincreased cardio-?thoracic (?:ratio|index)\b",
    ],
    "Lung Opacity": [
        r"\bopaci(?:ty|ties|fied|fication|fications)\b",
        r"\binfiltrat(?:e|es|ion|ions|ive)\b",
        r"\bair ?-?space (?:disease|process|abnormality|changes?|filling)\b",
        r"\b(?:haze|hazy|haziness|ground[- ]?glass)\b",
        r"\b(?:increased|prominent|coarsened|coarse|thickened) (?:\w+ ){0,2}markings\b",
        r"\binterstitial (?:lung |pulmonary )?(?:thickening|prominence|disease|abnormality|changes?|pattern|process)\b",
        rf"\b(?:{FULL}|coarsen(?:ing|ed)|chronic|irregular)\b[\w\s]{{0,30}}\binterstiti(?:um|al markings?)\b",
        r"\breticula(?:r|tions?)\b",
        r"\bscar(?:s|red|rings?)?\b",  # in CheXpert's phrase file of this observation
        r"(?<!bone )(?<!bony )(?<!osseous )(?<!metallic )(?<!calcific )(?<!soft tissue )(?<!radiopaque )"
        r"\b(?:increased |patchy )?densit(?:y|ies)\b",
    ],
    "Lung Lesion": [
        r"\bnodul(?:e|es|arity)\b",
        r"\b(?:nodular|round(?:ed)?|oval|mass-?like) (?:\w+ ){0,3}(?:infiltrat|densit|opaci|lesion|shadow|foc[ui])\w*",
        r"\b(?:mass|masses)\b",
        r"\b(?:pulmonary|lung|lobe|lobar|cavitary|cystic|parenchymal|coin|round(?:ed)?) (?:\w+ )?(?:lesions?|cavity)\b",
        r"\b(?:cavitary|cavitations?|neoplasms?|tumou?rs?|carcinoma|metastas[ie]s|metastatic)\b",
    ],
    "Edema": [
        r"\bo?edema(?:tous)?\b",
        r"\b(?:congestive )?(?:heart|cardiac) failure\b",
        r"\bchf\b",
        r"\b(?:fluid|volume) overload\b",
        r"\bkerley\b",
    ],
    "Consolidation": [r"\bconsolidat(?:ion|ions|ive|ed)\b"],
    "Pneumonia": [
        r"\b(?:broncho)?pneumoni(?:a|as|c)\b",
        r"\binfecti(?:on|ons|ous)\b",
    ],
    "Atelectasis": [
        r"\batelecta\w+",
        r"(?<!vertebral )(?<!vertebral body )\bcollaps(?:e|ed)\b(?! of (?:the )?(?:\w+ )?vertebra)",
    ],
    "Pneumothorax": [r"\b(?:hydro|hemo)?pneumothora(?:x|ces)\b", r"\bptx\b", r"\bpleural (?:\w+ )?air\b"],
    "Pleural Effusion": [
        r"(?<!pericardial )\beffusions?\b",
        r"\bpleural (?:(?!air)\w+ )?(?:fluid|collections?)\b",
        r"\b(?:hydro|hemo|hydropneumo|hemopneumo)thora(?:x|ces)\b",
    ],
    "Pleural Other": [
        r"\bpleural(?:[- ]based)? (?:\w+ ){0,2}(?:thickening|plaques?|calcifications?|mass|lesion)(?:/scarring)?\b",
        r"\bpleural (?:\w+ ){0,2}scar(?:s|ring)?\b",
        r"\b(?:thickening|scarring|calcification)s? (?:of|along) the (?:\w+ )?pleura\b",
        r"\bpleur(?:o|al)[- ]?parenchymal (?:\w+ )?(?:scar(?:s|ring)?|thickening|fibrosis|changes?)\b",
        r"\b(?:fibrothorax|(?:apical|pleural) cap(?:ping|s)?)\b",
        r"\bfissural thickening\b",
    ],
    "Fracture": [
        r"\bfractur(?:e|es|ed|ing)\b",
        r"\bcompression deformit(?:y|ies)\b",
    ],
    # As in CheXpert, no clips, sternotomy wires or stents. A spinal fusion is seen by its plates and screws.
    "Support Devices": [
        r"\b(?:pacemakers?|pacers?|pacing|icd|aicd|defibrillators?|leads?|loop recorder|(?:neuro)?stimulators?)\b",
        r"\b(?:catheters?|cath|picc|port|porta?-?a?-?cath\w*|mediport|infusaport|swan[- ]ganz|chemoport)\b",
        r"\b(?:central|venous|subclavian|jugular|arterial|ij|picc|support|monitoring) (?:venous )?lines?\b",
        r"(?<!kerley )(?<!kerley b )\blines(?:,| and| or)+ (?:and )?tubes\b",
        r"\b(?:tubes?|tubing|tracheostomy|cannulas?|ett?|ngt|dobbhoff|drains?)\b",
        r"\b(?:devices?|generators?|apparatus|equipment)\b",
        r"\btips?\b.{0,60}\b(?:svc|superior vena cava|cavo-?atrial|caval atrial)\b",  # only a catheter's tip lies there
        r"\b(?:balloon pump|iabp|lvad|ecmo|valve replacements?|prosthe(?:tic|sis)|coils?)\b",
        r"\b(?:hardware|arthroplast(?:y|ies)|screws?|rods?|plates?(?![- ]?like))\b",
        r"\b(?:spinal|spine) fusion\b|\b(?:cervical|thoracic|lumbar) (?:\w+ )?fusion\b",
    ],
    # Findings outside of the other 13, as in CheXpert: all they say is that the chest is not normal.
    "No Finding": [
        r"\b(?:emphysema|hyper(?:inflat|expan|aerat)|copd|obstructive|asthma|bronch(?:itis|iectasis|iolitis)|bull[ao])\w*",
        r"\b(?:granulom|calcif|atherosclero|tortuo|ecta(?:sia|tic)|aneurysm|uncoil|unfold|hypertension)\w*",
        r"\b(?:\w*scolio|kypho|degenerat|osteophyt|spondyl|spurring|arthr|osteo(?:peni|poro)|sclero|curvature)\w*",
        r"\b(?:hernia|eventration|elevat|flatten|blunt|volume loss|deformit|fibro(?:sis|tic)|thicken|prominen)\w*",
        r"\b(?:lymphadenopath|adenopath|pneumo(?:mediastin|periton)|h(?:a?ematom|a?emorrhag)|aspirat|lucen|cuffing)\w*",
    ],
}

# Phrases that CheXpert counts as uncertain by themselves: they hint at the observation and do not name it.
HEDGED_MENTIONS: dict[str, list[str]] = {
    "Cardiomegaly": [rf"\bborderline (?:\w+ )?(?:cardiomegaly|{HEART})\b", rf"\b{HEART}\b{GAP}\bborderline\b"],
    "Edema": [
        r"\bcongesti(?:on|ve changes)\b",
        rf"\bvascul(?:ar|arity|ature)\b.{{0,20}}\b{FULL}\b",
        rf"\b{FULL}(?: of)?(?: the)? (?:\w+ )?vascul\w+",
        r"\bcephalization\b",
    ],
    "Pleural Effusion": [
        r"\bblunt(?:ed|ing)\b.{0,40}\b(?:costophrenic|angles?|sulc(?:us|i)|recess(?:es)?)\b",
        r"\b(?:costophrenic|angles?|sulc(?:us|i)|recess(?:es)?)\b.{0,20}\bblunt(?:ed|ing)\b",
    ],
}

# (structure, what its being normal denies). "The heart and mediastinum are within normal limits."
NORMAL = r"(?:normal|normally|unremarkable|within (?:the )?(?:normal )?limits(?: of normal)?|clear|intact|sharp|free)"
NORMAL_STATEMENTS: list[tuple[str, tuple[str, ...]]] = [
    (r"heart(?! failure)|cardiac(?! and mediastinal)", ("Cardiomegaly",)),
    (r"cardiac and mediastinal", ("Cardiomegaly", "Enlarged Cardiomediastinum")),
    (r"cardio ?-?mediastin(?:al|um)|mediastin(?:al|um)", ("Enlarged Cardiomediastinum",)),
    (r"lungs?|lung (?:fields?|zones?|parenchyma)", ("Lung Opacity",)),
    (r"(?:pulmonary )?(?:vascularity|vasculature|vessels)|pulmonary vascular \w+", ("Edema",)),
    (r"pleural (?:spaces?|surfaces?|cavit(?:y|ies))|pleura", ("Pleural Effusion", "Pneumothorax")),
    (r"costophrenic (?:angles?|sulci|sulcus|recess(?:es)?)", ("Pleural Effusion",)),
    (r"(?:osseous|bony|skeletal) (?:\w+ )?(?:structures?|thorax)|bones|ribs", ("Fracture",)),
]

# Words that look like something else. They are replaced before anything is searched.
REWRITES: list[tuple[str, str]] = [
    (
        r"\b(?:no|without|not)(?: \w+){0,2} (?:changed?|increased?|decreased?|worsening|improvement)\b(?: in| of)?",
        "unchanged",
    ),
    # A heart "at the upper limits of normal" is normal to CheXpert, "borderline" is uncertain.
    (r"\b(?:normal (?:to|or)|borderline)(?: \w+){0,2} enlarged\b", "borderline"),
    (r"\b(?:(?:upper|high)(?: limits?)?(?: of)?|top[- ]|mildly prominent but) ?normal\b", "normal"),
    # CheXpert: calcified nodules, which are old granulomas, are no lesions.
    (r"\bcalcif\w+ (?:(?!and |with |or |in |near )\w+ ){0,3}(?:nodul\w+|densit\w+)", "calcification"),
    (
        r"\b(?:left|right)(?:-sided)?,?(?: and| or|,? greater than|,? more than| >|/)(?: the)? (?:left|right)\b",
        "bilateral",
    ),
    (r"\b(?:left|right) (atri|ventric|heart|main ?stem|paratracheal|hilar lymph)", r"\1"),
    (r"\bgranulomatous infections?\b", "granuloma"),
    (r"\bmass effect\b|\b(?:mediastinal|paratracheal|breast|chest wall|muscle) (?:mass(?:es)?|carcinoma)\b", "other"),
]

# ---------------------------------------------------------------------------------------------------------------------
# 2. The cues. Those "before" reach every mention after them in the clause, those "after" every mention before them.

CLAUSE_BREAKS = re.compile(
    r"\b(?:but|however|except(?: for)?|although|though|whereas|while|aside from|apart from|other than)\b"
    r"|(?<!if)(?<!if ),? ?(?:and |with )?there (?:is|are|has|have)\b"
    r"|,? and the\b|, the\b|, with\b|, now\b|(?<= seen),|(?<= identified),"
    r"|,(?= (?:possible|possibly|probable|probably|likely|suspected|questionable) )"
    r"|\band(?= (?:a )?(?:tiny|trace|small|mild|minimal|moderate|severe|stable|unchanged|persistent|new) )"
)
NEGATION_BEFORE = re.compile(
    r"\b(?:no|without|negative for|free of|free from|clear of|absence of|lack of|nor|neither|rather than|denies)\b"
    r"|\b(?:resolution|clearing|removal|exclusion) of\b"
    r"|\b(?:does|do|did|has|have) not (?:\w+ )?"
    r"(?:show|demonstrate|reveal|have|contain|suggest|indicate|developed?|appear)\b"
    r"|\b(?:not|never)"
    r"(?= (?:\w+ ){0,2}(?:enlarged|widened|dilated|prominent|large|increased|blunted|engorged|congested)\b)"
    r"|\bunlikely to (?:represent|be|reflect)\b"
)
NEGATION_AFTER = re.compile(
    r"\b(?:not|no longer) (?!well|clearly|fully)(?:\w+ )?"  # "not well seen": who knows
    r"(?:seen|identified|present|visuali[sz]ed|visible|evident|demonstrated|detected|observed|noted|found|appreciated)\b"
    r"(?! (?:on|in) (?:the )?(?:lateral|frontal|pa|ap|prior|previous|old|outside)\b)"  # but on the view at hand
    r"|\A(?: \w+)? (?:is|are|appears?|remains?)(?: \w+)? (?:normal|unremarkable|within (?:normal )?limits)\b"
    r"|\b(?:has|have|had|is|are|now|interval)(?: (?!nearly|almost|partially|partly|mostly|not)\w+){0,2}"
    r" (?:resolved|cleared)\b"
    r"|\b(?:is|are|was|were) (?:absent|excluded|ruled out|unlikely)\b"
    r"|\b(?:has|have) (?:\w+ )?been (?:removed|excluded|ruled out)\b"
)
# "Cannot exclude" holds a negation, so it is asked first (CheXpert: pre-negation uncertainty).
UNCERTAIN_NEGATION_BEFORE = re.compile(
    r"\b(?:cannot|can not|can't|not|difficult to|unable to)(?: \w+)? (?:exclude|rule out)\b|\bnot excluding\b"
)
UNCERTAIN_NEGATION_AFTER = re.compile(
    r"\b(?:cannot|can not|can't|not)(?: \w+)?(?: be)?(?: \w+)? (?:excluded|ruled out)\b|\bnot excluded\b"
)
CLINICAL_SETTING = r"(?:appropriate|correct|right|proper) clinical (?:setting|context)\b"
# CheXpert's published patterns leave "likely" out: "likely atelectasis" is asserted, and so it is here.
UNCERTAINTY_BEFORE = re.compile(
    r"\b(?:possib(?:le|ly|ility)|probabl[ey]|presum(?:ed|ably)|perhaps|maybe|questionable|equivocal|less likely)\b"
    r"|\b(?:may|might|could|would)\b"
    r"|\b(?:(?:suspicious|worrisome) for|suspicion (?:of|for)|suspect(?:ed)?|concern(?:ing)? (?:for|of)|question)\b"
    r"|\b(?:suggestion of|favor(?:ed|ing)?|consider(?:ation of)?|correlate(?: \w+)? for)\b"
)
UNCERTAINTY_AFTER = re.compile(
    r"\b(?:is|are|remains?) (?:\w+ )?(?:possible|possibility|suspected|questioned|questionable|considered|equivocal)\b"
    r"|\b(?:may|might|could|can) (?:also )?(?:be (?:present|considered|seen)|have (?:this|a similar) appearance)\b"
    rf"|\A in (?:the|an?) {CLINICAL_SETTING}"
)
# These stand for a whole list, so that no comma ends their reach: "differential includes infection, edema".
UNCERTAINTY_OF_LIST = re.compile(rf"\bdifferential\b|{CLINICAL_SETTING}")
# Advice, limits and history claim nothing: "CT to exclude a nodule", "limited evaluation for pneumothorax".
NO_CLAIM_BEFORE = re.compile(
    r"\b(?:(?:evaluat(?:e|ion)|assess(?:ment)?) (?:for|of)|to (?:identify|ensure)|exclude|rule[- ]?out|history of"
    r"|if (?:\w+ ){0,4}(?:concern|suspicion) (?:for|of))(?: (?!shows|demonstrates|reveals)[\w-]+){0,4} \Z"
)
NO_CLAIM_AFTER = re.compile(r"\A[\w\s]{0,20}\b(?:may|might) not be (?:seen|visible|demonstrated|apparent|detected)\b")
ALTERNATIVE = re.compile(r"\b(?:or|versus|vs)\b|\band/or\b")

SIDE_WORDS = re.compile(
    r"\b(?:(?P<bilateral>bilateral\w*|both|bibasilar|bibasal|biapical|bihilar)"
    r"|(?P<left>left|left-sided|lingular?)"
    r"|(?P<right>right|right-sided|middle lobe))\b"
)
SEPARATOR = re.compile(r",|\band\b|\bwith\b|\bor\b|\bplus\b")
MIDLINE = ("Enlarged Cardiomediastinum", "Cardiomegaly", "No Finding")

_REWRITES = [(re.compile(pattern), new) for pattern, new in REWRITES]
_PATTERNS = [
    (re.compile(pattern), observation, table is HEDGED_MENTIONS)
    for table in (MENTIONS, HEDGED_MENTIONS)
    for observation, patterns in table.items()
    for pattern in patterns
]
_NORMAL = [
    (
        re.compile(rf"\b(?:{structure})\b.{{0,90}}?\b{NORMAL}\b|\b{NORMAL}\b(?:[ -][\w-]+){{0,5}}? (?:{structure})\b"),
        denied,
    )
    for structure, denied in NORMAL_STATEMENTS
]


# ---------------------------------------------------------------------------------------------------------------------
# 3. From a report to labels.


def label_report(text: str) -> dict[str, Label]:
    """The 14 CheXpert labels of one report (or of its impression alone), each with its side.

    Every observation of `common.observations` is a key, in that order. Only what the report names is labelled:
    pneumonia does not imply lung opacity. An empty report has 14 blanks; any other has "No Finding" 1 or blank, and 1
    if nothing is positive or uncertain but Support Devices (so "lungs clear, PICC in place" is 1). Findings outside of
    the 14, such as scoliosis, undo it too.
    """
    values: dict[str, list[int]] = {name: [] for name in OBSERVATIONS}
    sides: dict[str, set[str]] = {name: set() for name in OBSERVATIONS}
    for clause in split_clauses(text):
        for observation, value, named_sides in _claims(clause):
            values[observation].append(value)
            sides[observation] |= named_sides

    labels = {name: Label(_strongest(values[name]), _one_side(sides[name])) for name in OBSERVATIONS}
    findings = [labels[name].value for name in OBSERVATIONS if name != "Support Devices"]
    if text.strip():
        labels["No Finding"] = Label(None if POSITIVE in findings or UNCERTAIN in findings else POSITIVE)
    return labels


def labels_together(first: dict[str, Label], second: dict[str, Label]) -> dict[str, Label]:
    """The labels of a report in two parts, neither empty and each of whole sentences, from the labels of its parts."""
    labels = {
        name: Label(
            _strongest((first[name].value, second[name].value)),
            _one_side({first[name].side, second[name].side} - {None}),
        )
        for name in OBSERVATIONS
    }
    if None in (first["No Finding"].value, second["No Finding"].value):
        labels["No Finding"] = Label(None)
    return labels


@lru_cache(maxsize=1 << 14)  # reports repeat each other: 59% of Open-i's clauses occurred before
def _claims(clause: str) -> list[tuple[str, int, set[str]]]:
    """(observation, value, sides) of each claim of a clause."""
    claims = []
    mentions = find_mentions(clause)
    for mention in mentions:
        value = _classify(clause, mention, mentions)
        if value is not None:
            sided = value != NEGATIVE and mention.observation not in MIDLINE
            claims.append((mention.observation, value, _sides(clause, mention, mentions) if sided else set()))
    for pattern, denied in _NORMAL:
        if pattern.search(clause):
            claims += [(observation, NEGATIVE, set()) for observation in denied]
    return claims


def label_reports(texts: Sequence[str]) -> np.ndarray:
    """Labels of N reports as (N, 14) float32, columns as `common.observations`: 1, 0, -1, and nan for blank."""
    rows = [[label.value for label in label_report(text).values()] for text in texts]
    return np.array(rows, dtype=np.float32).reshape(len(texts), len(OBSERVATIONS))


def split_clauses(text: str) -> list[str]:
    """Lower-case clauses of a report: its sentences, cut again where a negation's reach ends ("but", "except")."""
    text = single_spaces(text.lower().replace("’", "'"))
    text = re.sub(r"\b(?:findings|impression|comparison|indication)\s*:", ". ", text)
    text = re.sub(r"(?:^|(?<=[.\n]))\s*\d+[.)]\s", " ", text)  # "1. Cardiomegaly. 2. ..."
    sentences = re.split(r"(?<![.;!?])[.;!?]+(?=\s|$)|\n\s*\n", text)
    clauses = []
    for sentence in chain.from_iterable(map(pieces, sentences)):
        for pattern, new in _REWRITES:
            sentence = pattern.sub(new, sentence)
        clauses += [clause.strip(" ,") for clause in CLAUSE_BREAKS.split(sentence)]
    return [clause for clause in clauses if clause]


def single_spaces(text: str) -> str:
    """Each run of white space as a blank line, a line break or a space, so that no pattern meets a long run."""
    return re.sub(r"\s+", lambda run: ("\n" * min(run[0].count("\n"), 2)) or " ", text)


def pieces(sentence: str) -> list[str]:
    """The sentence with single spaces, in pieces of at most MAX_SENTENCE characters, cut between words if it can be."""
    sentence = " ".join(sentence.split())
    if len(sentence) <= MAX_SENTENCE:
        return [sentence]
    return textwrap.wrap(sentence, MAX_SENTENCE, break_on_hyphens=False)


def find_mentions(clause: str) -> list[Mention]:
    """Every mention in reading order. Of two that overlap and name the same observation, the longer one stays."""
    found = [
        Mention(*match.span(), observation, hedged)
        for pattern, observation, hedged in _PATTERNS
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


def _classify(clause: str, mention: Mention, mentions: list[Mention]) -> int | None:
    """1, 0, -1, or None if nothing is claimed. A cue "before" may lie inside of the mention: "heart is not large"."""
    before, after = clause[: mention.end], clause[mention.end :]
    if UNCERTAIN_NEGATION_BEFORE.search(before) or UNCERTAIN_NEGATION_AFTER.search(after):
        return UNCERTAIN
    if NO_CLAIM_BEFORE.search(clause[: mention.start]) or NO_CLAIM_AFTER.search(after):
        return None
    # The lookahead of "not (enlarged)" reads on into the mention, so search the clause and compare positions.
    if any(cue.start() < mention.end for cue in NEGATION_BEFORE.finditer(clause)) or NEGATION_AFTER.search(after):
        return NEGATIVE
    # A comma ends an uncertain cue's reach but not a negation's: "possible effusion, cardiomegaly".
    if mention.hedged or UNCERTAINTY_BEFORE.search(before.rsplit(",", 1)[-1]) or UNCERTAINTY_AFTER.search(after):
        return UNCERTAIN
    if UNCERTAINTY_OF_LIST.search(before):
        return UNCERTAIN
    if any(ALTERNATIVE.search(between) for between in _gaps(clause, mention, mentions)):
        return UNCERTAIN
    return POSITIVE


def _gaps(clause: str, mention: Mention, mentions: list[Mention]) -> Iterator[str]:
    """The text between a mention and its neighbours (of other observations) on either side."""
    earlier = [m.end for m in mentions if m.end <= mention.start and m.observation != mention.observation]
    later = [m.start for m in mentions if m.start >= mention.end and m.observation != mention.observation]
    if earlier:
        yield clause[max(earlier) : mention.start]
    if later:
        yield clause[mention.end : min(later)]


def _sides(clause: str, mention: Mention, mentions: list[Mention]) -> set[str]:
    """The sides a mention is given: first its own words, then those of its list ("collapse and fluid on the left")."""
    earlier = max((m.end for m in mentions if m.end <= mention.start), default=None)
    later = min((m.start for m in mentions if m.start >= mention.end), default=None)

    # "small LEFT effusion"; between two mentions only what follows the last "and", "with" or comma is ours.
    own = clause[earlier or 0 : mention.end]
    if earlier is not None:
        own = SEPARATOR.split(own)[-1]
    if sides := _side_words(own):
        return sides[-1]
    # "effusion on the LEFT"; before another mention everything after the last separator is that one's.
    own = clause[mention.end : later]
    if later is not None:
        own = own[: max((match.start() for match in SEPARATOR.finditer(own)), default=len(own))]
    if sides := _side_words(own):
        return set().union(*sides)
    # "LEFT collapse and fluid", or, at the end of the list, "collapse and fluid on the LEFT".
    if sides := _side_words(clause[: mention.start]):
        return sides[-1]
    last = max(m.end for m in mentions)
    return set().union(*_side_words(clause[last:]))


def _side_words(text: str) -> list[set[str]]:
    return [{match.lastgroup} for match in SIDE_WORDS.finditer(text)]


def _strongest(values: Iterable[int]) -> int | None:
    """CheXpert's aggregation: positive beats uncertain, uncertain beats negative."""
    return next((value for value in (POSITIVE, UNCERTAIN, NEGATIVE) if value in values), None)


def _one_side(sides: set[str]) -> str | None:
    return "bilateral" if len(sides) > 1 else next(iter(sides), None)


# ---------------------------------------------------------------------------------------------------------------------
# 4. How good it is.

NOTES = """
F1: uncertain counts as positive, for both. strict F1: positive alone does. side: left, right or bilateral agrees.
Left out of the macro, as no report has a term of theirs: {absent}.
MeSH has no term for absence, so blank and negative are one here, and few for doubt: the indexers gave many a hedged
atelectasis its term, and hardly a hedged pneumonia. They may have seen what anonymisation made "XXXX" of."""


def agreement(said: np.ndarray, true: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Precision, recall and F1 of each class, (C,) each, of (N, C) booleans; 0 where nothing was said or is true."""
    hits = (said & true).sum(axis=0)
    said, true = said.sum(axis=0), true.sum(axis=0)
    return hits / np.maximum(said, 1), hits / np.maximum(true, 1), 2 * hits / np.maximum(said + true, 1)


def measure(path: Path, which: str = "even") -> str:
    """A table of the labels of Open-i's reports against the MeSH terms that people gave them (`archives.labels.MESH`).

    which: "even", "odd" or "all" report numbers. A report is labelled whole, findings and impression, as it was
    indexed; those without terms ("No Indexing") are left out. MeSH has no denials, so negative and blank are one.
    Sides are compared where both name the observation and both name a side. Raises UserError if `path` is no Open-i.
    """

    source = open_source(path, "all", need_images=False, cache=None)
    if source.kind != "open-i":
        raise UserError(f"{path}: a set of kind {source.kind} has no MeSH terms; give NLMCXR_reports.tgz of Open-i")
    texts, terms = [], []
    for index, record in enumerate(source.records):
        indexed = [term for term in record.extra["mesh"] if term.lower() != "no indexing"]
        number = int(re.sub(r"\D", "", record.patient) or 0)
        if indexed and (which == "all" or number % 2 == (which == "odd")):
            texts.append(source.text(index)[0])
            terms.append(indexed)
    if not texts:
        raise UserError(f"{path}: no {which} reports with MeSH terms; give --which all or another set")

    start = time.perf_counter()
    reports = [label_report(text) for text in texts]
    milliseconds = 1000 * (time.perf_counter() - start) / len(texts)
    said = np.array([[label.value or 0 for label in report.values()] for report in reports])  # blank is 0 too
    mesh = [mesh_labels(indexed) for indexed in terms]
    true = np.array([[labels.get(name, 0) for name in OBSERVATIONS] for labels in mesh])
    precision, recall, f1 = agreement(said != 0, true != 0)
    strict = agreement(said == 1, true == 1)[2]
    expressed = (true != 0).any(axis=0)

    sides: dict[str, list[bool]] = {name: [] for name in OBSERVATIONS}
    for report, indexed in zip(reports, terms, strict=True):
        for name, label in report.items():
            words = {word for term in indexed if name in mesh_labels([term]) for word in term.lower().split("/")}
            side = _one_side({"left" if word == "lingula" else word for word in words} & {"left", "right", "bilateral"})
            if label.side and side:
                sides[name].append(label.side == side)

    lines = [f"{len(texts)} {which} reports of {path.name}, labeler against MeSH terms, {milliseconds:.2f} ms a report"]
    lines += [f"{'':27}{'MeSH':>6}{'labeler':>9}{'precision':>11}{'recall':>8}{'F1':>7}{'strict F1':>11}{'side':>14}"]
    for k, name in enumerate(OBSERVATIONS):
        right = sides[name]
        side = f"{sum(right)}/{len(right)}" if right else "-"
        scores = f"{precision[k]:11.3f}{recall[k]:8.3f}{f1[k]:7.3f}{strict[k]:11.3f}" if expressed[k] else f"{'-':>37}"
        lines += [f"{name:27}{(true[:, k] != 0).sum():6}{(said[:, k] != 0).sum():9}{scores}{side:>14}"]
    right = [agrees for values in sides.values() for agrees in values]
    means = f"{f1[expressed].mean():14.3f}{strict[expressed].mean():11.3f}"
    lines += [f"{f'macro, {expressed.sum()} classes':53}{means}{f'{sum(right)}/{len(right)}':>14}"]
    absent = ", ".join(name for name, has in zip(OBSERVATIONS, expressed, strict=True) if not has) or "none"
    return "\n".join(lines) + NOTES.format(absent=absent)


def main() -> None:
    parser = arguments.Parser(
        description="Label a chest X-ray report with CheXpert's 14 observations, or measure how good that is.",
        epilog='example: python -m reports.labeler "No pneumothorax. Small left effusion, cannot exclude pneumonia."\n'
        "example: python -m reports.labeler measure NLMCXR_reports.tgz",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("text", type=arguments.text, help='the text of a report in quotes, or the word "measure"')
    reports = "measure: the reports of Open-i, NLMCXR_reports.tgz"
    parser.add_argument("reports", nargs="?", type=arguments.path, help=reports)
    parser.add_argument(
        "--which",
        choices=("even", "odd", "all"),
        help="measure: reports by their number; the rules were written by the even ones alone (default even)",
    )
    args = parser.parse_args()
    if args.text == "measure":
        if args.reports is None:
            raise UserError("measure: no reports; name NLMCXR_reports.tgz of Open-i, or a folder that holds it")
        print(measure(arguments.existing(str(args.reports)), args.which or "even"))
        return
    if args.reports is not None or args.which:
        raise UserError(f"{args.reports or '--which'}: only for measure; put the whole report in quotes and no more")
    if not args.text.strip():
        raise UserError("text: an empty report; give its text in quotes")
    for name, label in label_report(args.text).items():
        word = {POSITIVE: "positive", NEGATIVE: "negative", UNCERTAIN: "uncertain", None: "."}[label.value]
        print(f"{name:<28}{word:<11}{label.side or ''}")


if __name__ == "__main__":
    run(main)
