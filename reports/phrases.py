"""What a report says that a ViT could see: the targets of stage vit."""

import math
import re
from collections import Counter
from collections.abc import Sequence

from archives.records import Records, Source
from reports.labeler import POSITIVE, UNCERTAIN, label_report, split_sentences

FILLERS = re.compile("an?|and|are|as|at|be|been|by|for|from|has|have|in|is|it|may|of|on|or|th(at|e|ere|is)|to|was|with")
DENIAL = {"no", "not", "without", "negative", "free", "normal", "clear", "unremarkable", "absent", "none", "nor", "t"}


def phrases(words: Sequence[str]) -> set[str]:
    """Every run of one to three words of a sentence: {"small", "left", "small left", "left pleural", ...}."""
    return {" ".join(words[i : i + n]) for n in (1, 2, 3) for i in range(len(words) - n + 1)}


def visible(source: Source, index: int) -> dict[str, float]:
    """What stage vit asks the ViT to see: name -> 1, or nan where the report is uncertain; what is not named is 0.

    Of a phantom the phrases of its impression, all of which are true. A person says one thing in many words, denies
    most of what he names, and doubts: of a real film the labeler's observations with their sides, the MeSH codes of the
    set from the heading on ("opacity", "opacity/lung", ...), and the phrases of the sentences that deny nothing.
    """
    report, impression = source.text(index)
    if not isinstance(source, Records):
        sentences = impression.lower().split(".")
        return dict.fromkeys((phrase for sentence in sentences for phrase in phrases(sentence.split())), 1.0)
    found = {}
    for sentence in split_sentences(report):
        words = re.sub(r"[^a-z\s-]", " ", sentence).split()
        for phrase in phrases(words) if not DENIAL & set(words) else ():  # "t" is what is left of "isn't"
            first, *_, last = [*phrase.split()] * 2
            if not FILLERS.fullmatch(first) and not FILLERS.fullmatch(last):
                found[phrase] = 1.0
    for code in source.extra(index).get("mesh", ()):
        parts = code.lower().split("/")
        found |= {"mesh: " + "/".join(parts[: n + 1]): 1.0 for n in range(len(parts))}
    for name, label in label_report(report).items():
        sides = ("left", "right") if label.side == "bilateral" else (label.side,) if label.side else ()
        if label.value == POSITIVE:
            found |= dict.fromkeys([f"label: {name}", *(f"label: {name}, {side}" for side in sides)], 1.0)
        elif label.value == UNCERTAIN:
            found |= dict.fromkeys([f"label: {name}", f"label: {name}, left", f"label: {name}, right"], math.nan)
    return found


def common_targets(found: Sequence[dict[str, float]], least: int) -> list[str]:
    """The names that at least `least` examples share and at least so many lack, sorted."""
    counts = Counter(name for each in found for name, value in each.items() if value == 1)
    return sorted(name for name, count in counts.items() if least <= count <= len(found) - least)
