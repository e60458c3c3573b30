"""Cleaning by rules: tables of regular expressions, free and offline. `clean_text` and `clean_report` apply them.

What a picture cannot show goes (blanks, dates, comparisons, calls, advice), what it shows stays. Each sentence passes
through the tables in this order: ADVICE, DROPPED, EXAMINATION, COMPARISONS, REPAIRS; TECHNIQUE and ANATOMY find the
sentences that say nothing any more. UniX's own references keep words of comparison: `keep_comparisons` does too.

How a table is written: an entry a line. An indented line continues the entry above it. `<NAME>` stands for an entry of
PIECES, `#` begins a comment. Three signs stand for what was taken out of a sentence, and REPAIRS removes them again:

    □  a word that was taken out before us ("___", "XXXX")
    ◇  a comparison that a rule took out ("unchanged")
    ▷  a "remains" that becomes "is" or "are"
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import lru_cache

from reports.labeler import label_report, labels_together, pieces, single_spaces

BLANK = "□"

# What the entries of the other tables, and later pieces, name in <>. A long entry breaks only before a bar, so that
# every word can be searched.
PIECES = r"""
MONTH (?:jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec)[a-z]*\.?
DATE (?:\d{1,4}[/-]\d{1,2}[/-][\d□]+|[\d□]+/[\d□]+(?:/[\d□]+)?|<MONTH> \d{1,2},? \d{4}|\d{1,2} <MONTH> \d{4})
CLOCK (?:\d{1,2}[:.]\d\d ?(?:[ap]\.?m\b\.?|hours|hrs)|\d{1,2}:\d\d|\d{1,2} ?[ap]\.?m\b\.?|\d{4} hours)
AGO (?:one|two|three|\d+) (?:day|week|month|year)s? (?:ago|earlier|prior)
EXAM (?:study|studies|exam(?:ination)?s?|radiographs?|radiography|films?|cts?|x-?rays?|images?|imaging|scans?|tomogram)
OLD (?:(?:most |more )?recent|prior|previous|earlier|remote|old(?:er)?|last|outside|comparison|preceding|available)
CHEST (?:chest|portable|frontal|pa|ap|lateral|computed)
PRIOR (?:(?:the|a|an|any|multiple|her|his|its) )?(?:(?:<OLD>|□|<CHEST>)[ ,]+)*(?:<EXAM>\b|□|yesterday|before\b
    |(?:prior|previous|comparison|last)s?(?=\s*(?:[,.;]|$|with|and|from|of)))(?: (?:<CHEST>|<OLD>
    |<EXAM>)\b)*(?:,? (?:from|of|on|in|dated|performed|obtained)(?: on| in)? (?:the )?(?:□|<DATE>|<CLOCK>)
    |,? (?:<DATE>|<CLOCK>|<AGO>)| □)*
SINCE (?:(?:as |when |in )?(?:compared|comparison) (?:to|with)|relative to|since|from)
VERSUS (?:<SINCE>|(?:than|as) (?:on|in)|over|than|as|to|on|in)
NOUN (?:size|appearance|position|extent|configuration|caliber|number|location|degree|contour)
ASPECT (?: in (?:the )?<NOUN>(?: and <NOUN>)?)?
SAME (?:stable|unchanged|static|not changed|without change|no change)
SEEN (?:seen|noted|demonstrated|identified|visuali[sz]ed|present|observed|shown|appreciated)
ADVERBS essentially|grossly|relatively|overall|largely|otherwise|significantly|substantially|slightly|mildly|somewhat
    |markedly|minimally|moderately|considerably|appreciably|also|very|now|further|much|partially|probably|clinically
    |radiographically
ADVERB (?:(?:<ADVERBS>) ){0,5}
DEGREE (?:(?:<ADVERBS>|not|any|significant|substantial|slight|mild|marked|minimal|moderate|definite|appreciable|large
    |little|again|interval|continued) ){0,5}
OTHER (?:comparisons?|technique|indications?|(?:clinical )?(?:history|information)|reason for exam(?:ination)?
    |exam(?:ination)?|procedure|study|views?|date|recommendations?(?: ?\(s\))?|notifications?)
"""

# A whole sentence goes where one of these is found in it: it says nothing about the picture.
DROPPED = r"""
# what is called normal is a blank
^(?:the |visualized )*□[ □]*(?:are|is|appears?) <ADVERB>(?:normal|unremarkable|intact|clear|negative)[.\s]*$
# calls
\b(?:discussed (?:with|by)|communicated|conveyed|telephone|phone|notified|paged|pager|acknowledged|read ?back)\b
# names
\b(?:findings?|results?|recommendations?)\b.*\bdiscussed\b|\bI discussed\b|^discussed\b|\bdr\.
# courtesy
\b(?:thank you|thanks|dictated|transcribed|electronically signed|attending|for this referral)\b
\bif (?:there are |you have )?(?:any )?questions\b|\bwould like to discuss\b|\bI have (?:personally )?reviewed\b
^please\b|^(?:please )?see\b|^(?:findings )?as (?:above|below|described)\b
# priors
\bcomparisons? (?:is|are|was|were) (?:made|available)|^comparison\b|^compared? (?:to|with) <PRIOR>[.\s]*$
^(?:there (?:is|are) )?no (?:<OLD> )*(?:comparisons?|<OLD>) ?(?:chest )?<EXAM>?\b(?: (?:is|are|available|for|currently
    |comparison)\b.*)?[.\s]*$
\bnot available (?:for|at)\b|\bavailable for (?:direct )?comparison\b
^(?:overall,? )?(?:there (?:is|are|has been|have been) )?(?:no|little|without) (?:<DEGREE>)(?:changes?)(?:◇|\s)*[.\s]*$
# advice
\b(?:recommend\w*|advised|follow-? ?up|correlat(?:e|ion)\b|followed up|further (?:evaluat|imag|characteri[sz])\w+)
    |if not already performed|^if\b.*\b(?:consider|desired)
\b(?:if|as) clinically (?:indicated|warranted)\b|^(?:consider|suggest)\b
    |\b(?:would|may|could) be (?:helpful|useful|of benefit)\b
"""

# From here on an entry is `pattern => replacement`, applied in this order, upper and lower case alike. A ~ stands for a
# space at the end.
# Advice at the end of a sentence goes unless it names an observation ("..., correlate for pneumonia").
ADVICE = r"""
^(?:no )?comparison(?: chest x-□|[ □,]*□)\s+ =>
(?<!^)(?:[,;:]|,? and|,? however,?|,? but| -) *(?:(?:clinical )?correlat(?:e|ion)
    |(?:would |we |i )?recommend(?:ed|ation)?\b|(?:ct )?follow-? ?up
    |consider (?:ct|follow|further|dedicated|chest))\b[^.;]* =>
\b(?:,? as )(?:above|below|described(?: above| below)?|discussed(?: above| below))\b =>
"""

# What dates or describes the examination goes.
EXAMINATION = r"""
# The views before a finding: "Frontal and lateral views of the chest show ...".
^(?:the |an? )?(?:[\w()□-]+,? ){0,8}?(?:views?|radiographs?|x-rays?|examination|projection|images?
    |films?)(?: of the chest)?(?: with [\w ]{0,40})? (?:shows?|demonstrates?|reveals?|depicts?) (?:that )? =>
^(?:portable |single |two |pa |ap |frontal |lateral |upright |supine |and |views? |of |the |chest |radiographs?
    |x-rays? )*(?:views?|radiographs?|chest|x-rays?) ?: * =>
# Where and when.
,? ?\b(?:at|on|from|dated|of|around|approximately) (?:<CLOCK>|<DATE>)(?: on <DATE>| at <CLOCK>)? =>
\b<DATE>\b =>
^<CLOCK>\s+ =>
"""

# What compares goes, the finding stays.
COMPARISONS = r"""
# "Resolved" and "removed" are absences; an absence needs no prior.
^(?:there (?:is|has been) )?(?:a )?(?:interval )?(?:complete )?(?:resolution|removal
    |clearing) of (?:the |an? |\d+ |two |three )?(?:<OLD> |previously (?:<SEEN>|described) )? => No~
^(?:in the interval,? |interval,? )?(?:the |an? )?(?:<OLD> |previously (?:<SEEN>
    |described) )?((?:(?!\b(?:no|not|and|is|are|with|but)\b)[^,;.])+?) (?:has|have)(?: now| since| completely| been
    | also| in the interval| fully)* (?:resolved|cleared|removed)(?=[.\s]*$) => No \1
^(?:the |an? )?(?:previously (?:<SEEN>|described) )?((?:(?!\b(?:no|not|and|is|are|with|but)\b)[^,;.])+?) (?:is
    |are) no longer (?:<SEEN>|visible|evident)(?=[.\s]*$) => No \1
# Larger, as a comparison, of what has no other word for its finding.
(?:there(?: is| has been|'s been) )?(?:an? )?<DEGREE>\binterval (?:\w+ )?enlargement (?:of|in) (?:the )?(heart|cardiac
    |cardiomediastinal|mediastin\w+)( silhouette| size| contours?)? => enlarged \1\2
\b(heart|cardiac silhouette|cardiomediastinal silhouette
    |mediastinum)( size)? (?:has|have) (?:\w+ )?(?:increased|enlarged)(?: in size)? => \1\2 is enlarged
# No change in X: X is there.
(?:there (?:is|are|has been) )?\b(?:no|without)(?: evidence of| evidence for)? <DEGREE>(?:changes?|increase|decrease
    |improvement|worsening) (?:in|of)(?: the)?(?: (?:appearance|size|position|extent|severity
    |degree)(?: and (?:size|extent))? of)?(?: the)?\b =>
(?:,|\b(?:or|and|with)) (?:no |without )?(?:<DEGREE>)(?:interval )(?:changes?)(?=[,.;\s]*$) =>
,? ?\b(?:with )?(?:no|without) <DEGREE>changes?\b<ASPECT>(?: <VERSUS> <PRIOR>)? => ◇
# Comparisons with a study that the picture does not show.
^(?:(?:as |when |in )?(?:compared|comparison) (?:to|with)|since|relative to) <PRIOR>[^,]{0,30}, * =>
^in the interval,? (?:since <PRIOR>,? )?|,? ?\bin the interval\b =>
,? ?\b(?:not )?<ADVERB>(?:(?:increased|decreased|improved|worse(?:ned)?|larger|smaller|progressed|better|changed|greater
    |similar|<SAME>)\b<ASPECT>(?: and| or)? ?)+(?:(?:slightly|somewhat|markedly|significantly|□) )*<VERSUS> <PRIOR> => ◇
,? ?\b(?:as )?<SINCE> <PRIOR> => ◇
,? ?\b(?:(?:that|which) )?(?:(?:is|are|was|were) )?not (?:\w+ )?<SEEN> (?:on
    |in) (?:the )?(?:<OLD> )+(?:chest )?<EXAM>\b => ◇
,? ?\b(?:(?:as )?(?:also )?(?:seen|noted|present) )?(?:on
    |in) (?:the )?(?:<OLD> )+(?:chest )?<EXAM>\b(?: (?:chest|<EXAM>))* => ◇
^(?:without|no) (?:prior )?comparisons?,?~ =>
\b(?:previously|already|recently) (?:<SEEN>|described|reported|mentioned)~ =>
,? ?\b(?:(?:as )?(?:<SEEN>|described|identified) )?previously(?=[\s,.]|$) =>
# Growth and decline.
,? ?\b(?:with )?<DEGREE>\binterval <DEGREE>(?:increase|decrease|enlargement) in (?:size|extent
    |number)(?: and (?:size|extent|number))?(?=[.,;]|$| from| since| compared) => ◇
(?:<ADVERB>(?:interval )?improved aeration|(?:interval )?improvement in aeration) (?:of|in
    |at) (?:(?!with\b)[\w-]+ ?)+?(?: with (?=\w)|(?=[.,;]|$)) =>
(?:there (?:is|are|has been|have been) )?(?:an? )?<DEGREE>\binterval <DEGREE>(?:increase|decrease|worsening|improvement
    |progression|enlargement|reduction|development|appearance|placement|insertion
    |performance)(?: ?(?:and|/|or) ?(?:increase|decrease|worsening|improvement
    |progression))?(?: (?:in|of)\b| and\b|(?= \w))(?: the)?(?: (?:size|extent|number|amount|degree|severity
    |appearance)(?: and (?:size|extent|number))? of)?(?: (?:the|an?)\b)? =>
^(?:development|worsening|progression|improvement|placement) (?:of|in) (?:the |an? )? =>
,? ?\b(?:with )?<DEGREE>\binterval <DEGREE>(?:increase|decrease|worsening|improvement|progression
    |enlargement)\b<ASPECT> => ◇
\b(?:has|have) (?:not )?<ADVERB>(?:increased|decreased|improved|worsened|progressed
    |changed)<ASPECT>(?: (?:slightly|somewhat|markedly|considerably|significantly))?\b => is ◇
\bhas (?:since )?developed (?=in\b|at\b|within\b) => is seen~
\bhave (?:since )?developed (?=in\b|at\b|within\b) => are seen~
\b(?:stable|unchanged) to <ADVERB>(?:increased|decreased|improved|worse(?:ned)?|larger|smaller)\b => unchanged
(?<!heart )(?<!silhouette )(?<!mediastinum )(?<!size )\b(?:is|are) <ADVERB>(?:larger|smaller|improved
    |worse(?:ned)?)(?=[.,;]|$) => ◇
# Again, still, new.
\b(?:is|are) not new\b => ◇
,? ?\b(?:on|in) (?:today's|this|the (?:current|present)|current) <EXAM>\b =>
\bhas become\b => is
\bhave become\b => are
^(?:there (?:is|are) )?again,? (?:<SEEN>) (is|are)~ => there \1~
^(?:there (?:is|are) )?(?:again|redemonstration|re-?demonstrated)(?:,? <SEEN>)?(?: of
    |,)? (?:without [\w ]* of )?(?:the )?(is|are)? ? =>
\b(is|are) re-?demonstrated\b => \1 seen
,? ?\bagain\b,? =>
\b(?:remains?|continues? to be)\b(?= (?!stable|unchanged)) => ▷
\bcontinues? to (show|demonstrate)\b => \1
\b(?:persists?|persisting)\b => ◇
(?<!there )\b(appears?|is|are|remains?|has|have|was|were)(?: remained
    | been)? (?:not )?<ADVERB><SAME>\b<ASPECT>(?! (?:normal|mild|moderate|severe|marked|enlarged|borderline|within
    |prominent|post|elevat)) => \1 ◇
\bin <ADVERB>(?:stable|unchanged|similar|□,? stable) (?:position|location|appearance|configuration|alignment)\b => ◇
\b(normal|unremarkable|clear|enlarged|mild|moderate) and (?:stable|unchanged)\b => \1
(?:^|,? and |, )<ADVERB>(?:stable|unchanged)(?: (?:mediastin\w+|hilar|cardiomediastinal|and|cardiac|contours?
    |silhouettes?|size|heart|appearance|of|the|chest))+(?=[,.;]|$) =>
,? and <ADVERB>(?:stable|unchanged)\b<ASPECT>(?=[.,;\s]*$|,| from) =>
\b<ADVERB>(?:stable|unchanged)\b<ASPECT>(?: and|,)? (?=(?:normal|within|mild|moderate|enlarged|clear|not|borderline|top
    |at)\w*) =>
(?:^|\b)<ADVERB>(?:stable|unchanged)(?: interval)? (?:radiographic )?(?:appearance|position|size|configuration|location
    |placement) of(?: the)?\b =>
,? ?\b<ADVERB>(?:stable|unchanged)\b<ASPECT>(?=[.,;]|\s*$) => ◇
\b(?:relatively |grossly |essentially )?(?:stable|unchanged)(?:[- ]appearing)?\b,? =>
\b<ADVERB>(?:new|newly|progressive|worsening|worsened|improved|improving|increasing|decreasing|enlarging|persistent
    |residual|interval)\b(?: or (?:new|worsening|increasing|enlarging))?,? ? =>
"""

# Instead of COMPARISONS: the word of comparison stays ("increased", "stable", "new"), the study that it names goes.
KEPT_COMPARISONS = r"""
^(?:(?:as |when |in )?(?:compared|comparison) (?:to|with)|since|relative to) <PRIOR>[^,]{0,30}, * =>
\b((?:increased|decreased|improved|worse(?:ned)?|larger|smaller|progressed|better|changed|greater
    |similar|<SAME>)\b<ASPECT>(?: (?:slightly|somewhat|markedly|significantly))*) <VERSUS> <PRIOR> => \1
,? ?\b(?:as )?<SINCE> <PRIOR> =>
,? ?\b(?:on|in) (?:today's|this|the (?:current|present)|current) <EXAM>\b =>
"""

# What is left when words are gone.
REPAIRS = r"""
\s+ => ~
\bx-□ => x-ray
^(?:the |visualized )*□[ □]*(?:are|is|appears?)\s =>
\b(no|without) (?:acute |radiographic )?□ (?:of|for) (?:an? )? => \1~
\b(the|an?) □ and~ => \1~
\ban? □ of~ =>
\b(scattered|some|few|multiple|minimal|mild) (?:□ )+of~ => \1~
(?:,? and|,) (?:the |pulmonary |visualized |hilar )*□(?: □)* (?:are|appear|▷) => ~are
^((?:the )?(?:heart|heart size|cardiac silhouette|aorta|mediastinum)) are\b => \1 is
,? pulmonary □ and~ => ~and~
(?:\b(?:at|on|from|of|by|in|to|with|since|dated|than|per) (?:the )?)(?:□[ ,/]*)+(?=[.,;]|$) =>
□(?:'?[st]\b)? =>
\b(is|are|▷|appears?|remains?) ◇+ ?(?:and|but) (?!there|the |no ) => \1~
,? ?\b(?:which|that|this)? ?\b(?:also )?(?:is|are|▷|appears?|remains?|has|have|was|were)(?: been| also| being)* *◇+ => ◇
◇+ ?(?:and|but|,)? ?(?=[.;]|$) =>
 ?◇+ ? => ~
(\w)s ▷ => \1s are
▷ => is
^(?:and|but|with|or|also|however|overall|otherwise|in addition)\b[ ,]+ =>
\b(?:and|but|with|or|the|an?|in|of|from|to|is|are|which)\s*(?=[.,;]|$) =>
\ban? (?=no\b) =>
\ba (?=(?:enlarged|[aeio]\w)[a-z]* ) => an~
\ban (?=[bcdfgjklmnpqrstvwz][a-z]+\b) => a~
\(\s+(?=\w) => (
\(\s*\)|\[\s*\]|\"\s*\" =>
\s+([.,;:)]) => \1
([,;:])(?:\s*[,;:])+ => \1
[,;:]+\s*\. => .
\.{2,} => .
^[\s,;:.)\]/-]+ =>
\s{2,} => ~
"""

# A sentence of these words alone says nothing: names of views, or of anatomy without a statement about it.
TECHNIQUE = r"""
single one two three \d portable semi semi-?upright upright erect supine frontal pa ap lateral bedside crosstable
chest thorax views? radiographs? radiographic radiography x-?rays? images? films? projections? examination exam
study series consists? performed obtained submitted provided reviewed acquired is are was were have has been the a
an of and in with on at by to for from interpretation review digital technique limited
"""
ANATOMY = r"""
the this these it they that there heart cardiac cardiomediastinal cardio mediastin(?:al|um) hil(?:ar|um|a)
silhouettes? contours? size borders? lungs? volumes? aeration pulmonary vascul(?:ar|arity|ature) vessels osseous
bony bones? skeletal structures? soft tissues? aort(?:a|ic) thorac(?:ic|oabdominal) spine thorax chest upper abdomen
pleural? visuali[sz]ed remaining remainder findings? appearance an? examination exams? is are was were has have of and
in on shows? with as also both bilateral(?:ly)? however bases? acute significant interval change process
"""


_PIECES: dict[str, str] = {}


def _lines(table: str) -> list[str]:
    """The entries of a table, with the pieces put in; an indented line continues the entry above it."""
    lines = [line for line in table.replace("\n    ", "").splitlines() if line and not line.startswith("#")]
    return [re.sub(r"<([A-Z]+)>", lambda name: _PIECES[name[1]], line) for line in lines]


for _line in PIECES.replace("\n    ", "").strip().splitlines():  # a piece may name earlier ones
    _name, _pattern = _line.split(" ", 1)
    _PIECES[_name] = _lines(_pattern)[0]


def _rules(table: str) -> list[tuple[re.Pattern, str]]:
    pairs = [line.replace("~", " ").split(" =>") for line in _lines(table)]
    return [(re.compile(pattern, re.I), new[1:]) for pattern, new in pairs]


_HEADER = re.compile(
    r"(?:^|(?<=[.:\n□¶]))\s*\b(?:(findings|impressions?|conclusions?|opinion|(?:final |wet )?re(?:port|ad)|chest)"
    rf"|({_PIECES['OTHER']})) *:",
    re.I,
)
_DROPPED = re.compile("|".join(_lines(DROPPED)), re.I)
_ADVICE, _REPAIRS = _rules(ADVICE), _rules(REPAIRS)
_REWRITES = {  # keep comparisons?
    False: _rules(EXAMINATION) + _rules(COMPARISONS),
    True: _rules(EXAMINATION) + _rules(KEPT_COMPARISONS),
}
_TECHNIQUE, _ANATOMY = (
    re.compile(rf"(?:\b(?:{'|'.join(words.split())})\b[\s,.()/-]*)+", re.I) for words in (TECHNIQUE, ANATOMY)
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
        if cleaned := _rewrite(sentence, keep_comparisons):
            kept.append((cleaned, drop))
    others = " ".join(sentence for sentence, drop in kept if not drop)
    known = label_report(others) if others else {}
    for index, (sentence, drop) in enumerate(kept):
        if drop and _named(sentence):
            said = label_report(sentence)
            together = labels_together(known, said) if known else said
            if together != known:
                kept[index] = (sentence, False)
                known = together
    return " ".join(sentence for sentence, drop in kept if not drop)


def clean_report(findings: str, impression: str, keep_comparisons: bool = False) -> tuple[str, str]:
    """Both sections of a report by the rules; either may come back empty."""
    return clean_text(findings, keep_comparisons), clean_text(impression, keep_comparisons)


def _sentences(text: str) -> Iterator[str]:
    """The sentences of the sections that describe the picture, blanks marked, list numbers and headers off."""
    text = single_spaces(text.replace("\r", ""))
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
        piece = re.sub(r"(?:^|(?<=[.\n:])(?=\s)|(?<=[\n:¶]))\s*(?:\d{1,2}[.)]|[-*•])(?=\s|[A-Z])", "¶", piece)
        piece = re.sub(r"\b(dr|mr|mrs|ms|vs|a\.m|p\.m|(?:by|with|to) [a-z])\.(?=\s+[\w□])", r"\1", piece, flags=re.I)
        paragraphs = [part for part in piece.split("¶") if part.strip()]
        if not about and (ended or len(paragraphs) > 1):
            paragraphs, about = paragraphs[1:], True
        parts = [part for one in paragraphs for part in re.split(r"(?<=[.!?;])\s+|(?<=[a-z]{2}\.)(?=[A-Z])", one)]
        # "COMPARISON: None. Heart normal." with neither a header nor an empty line after it: only a sentence goes.
        yield from (piece for part in parts[0 if about else 1 :] for piece in pieces(part))


@lru_cache(maxsize=1 << 14)  # as in reports/labeler.py: reports repeat each other's sentences
def _rewrite(sentence: str, keep_comparisons: bool) -> str:
    """One sentence by the tables from EXAMINATION to REPAIRS; "" if it said nothing about the picture."""
    sentence = sentence.strip(" .;!?")
    for pattern, new in _REWRITES[keep_comparisons]:
        sentence = pattern.sub(new, sentence)
    for pattern, new in _REPAIRS:
        sentence = pattern.sub(new, sentence)
    sentence = sentence.strip(" .,;:-!?")
    if not re.search(r"[A-Za-z]{2}", sentence) or _TECHNIQUE.fullmatch(sentence) or _ANATOMY.fullmatch(sentence):
        return ""
    sentence = re.sub(r"^No [A-Z](?=[a-z])", lambda start: start[0].capitalize(), sentence)  # "No Left effusion"
    return f"{sentence[0].upper()}{sentence[1:]}."


def _named(text: str) -> bool:
    return any(label.value is not None for name, label in label_report(text).items() if name != "No Finding")
