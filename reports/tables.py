"""The tables of words beside this file, vocabulary.txt and rules.txt: how they are written, and how they are read.

`[NAME]` begins a table and `#` a comment. An entry begins at the margin; what belongs to it stands indented below, and
a line that begins with a bar continues the line above. `<NAME>` stands for an entry "NAME pattern" of [PIECES], of
which a later one may name earlier ones. ` =>` parts a pattern from what replaces it; ~ is a space at its end.
"""

import re
from pathlib import Path
from typing import NamedTuple

VALUES = {"positive": 1, "negative": 0, "uncertain": -1, "blank": None}  # of a label, by the word of the tables


class Rule(NamedTuple):
    """An entry "name: word of VALUES, reach" of [RULES] in vocabulary.txt, which says what a reach is."""

    name: str
    value: int | None
    reach: str
    alone: bool
    cue: re.Pattern


def read_tables(file: str) -> dict[str, list[str]]:
    """name -> lines, each whole, with the pieces put in."""
    text = re.sub(r"\n +(?=\|)", "", Path(__file__).with_name(file).read_text(encoding="utf-8"))
    tables: dict[str, list[str]] = {}
    pieces: dict[str, str] = {}
    for line in text.splitlines():
        if re.fullmatch(r"\[[A-Z_]+\]", line):
            lines = tables[line[1:-1]] = []
        elif line.strip() and not line.lstrip().startswith("#"):
            lines.append(re.sub(r"<([A-Z]+)>", lambda name: pieces[name[1]], line))
            if lines is tables.get("PIECES"):
                name, pattern = lines[-1].split(" ", 1)
                pieces[name] = pattern
    return tables | {"PIECES": pieces}


def groups(lines: list[str]) -> list[tuple[str, list[str]]]:
    """Each line at the margin with the indented ones below it."""
    found: list[tuple[str, list[str]]] = []
    for line in lines:
        if line.startswith(" "):
            found[-1][1].append(line.strip())
        else:
            found.append((line, []))
    return found


def replacements(lines: list[str], flags: int = 0) -> list[tuple[re.Pattern, str]]:
    """Each line "pattern => new"."""
    pairs = [line.replace("~", " ").split(" =>") for line in lines]
    return [(re.compile(pattern, flags), new[1:]) for pattern, new in pairs]


def read_rules(lines: list[str]) -> list[Rule]:
    """Each "name: value, reach" with the cues below it."""
    rules = []
    for head, cues in groups(lines):
        name, value, reach = re.split(": |, ", head)
        rules.append(Rule(name, VALUES[value], reach.split()[0], reach.endswith("alone"), re.compile("|".join(cues))))
    return rules
