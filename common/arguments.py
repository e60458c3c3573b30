"""The arguments of every command: numbers with a least and a most, paths that can exist, errors of one line.

A type turns a word of the command line into its value, or raises UserError that begins with the word; `Parser` puts the
flag before it: "--n 0: give a whole number from 1 to 10,000". A type can be called without a parser too. Torch is not
imported: a mistyped flag does not wait for it.
"""

import argparse
import math
import re
import stat
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NoReturn

from common.errors import UserError

# The most that a command takes. A larger number is a slip: it would fill the memory or never end.
MOST_SEED = 2**63 - 1
MOST_EXAMPLES = 10_000_000  # of a data set
MOST_STEPS = 100_000_000  # of a training run
MOST_WORKERS = 256


class Parser(argparse.ArgumentParser):
    """An argparse parser whose errors are UserErrors of one line, and so are those of its subparsers."""

    def error(self, message: str) -> NoReturn:
        """Raises UserError where argparse would print its usage and leave."""
        raise UserError(f"{message.removeprefix('argument ')}; -h shows what to give")

    def _get_value(self, action: argparse.Action, text: str) -> object:
        # argparse has no public way to say "--n 0" in an error. This has kept its name since Python 3.2.
        try:
            return super()._get_value(action, text)
        except UserError as error:
            flag = f"{action.option_strings[0]} " if action.option_strings else ""
            raise UserError(f"{flag}{error}") from None


def shown(text: str) -> str:
    """A word as a message shows it: an empty one in quotes, a long one cut."""
    return (text if len(text) <= 100 else f"{text[:80]}... ({len(text):,} characters)") or "''"


def number(least: float, most: float, above: bool = False, mend: str = "", kind: type = float) -> Callable:
    """A type of finite numbers from `least` to `most`. above: not `least` itself. mend: what else to say of another.
    kind: float, or int for whole numbers."""

    def parse(text: str) -> float:
        try:
            value = kind(text)
        except ValueError:
            value = math.nan
        if not least <= value <= most or (above and value == least):
            name, lowest = "whole number," if kind is int else "number", "above" if above else "at least"
            raise UserError(f"{shown(text)}: must be a {name} {lowest} {least:,} and at most {most:,}{mend}")
        return value

    return parse


whole = partial(number, kind=int)


def size(text: str) -> int:
    """Pixels a side: a multiple of 16 up to 4,096."""
    value = whole(16, 4096, mend="; 256 is usual")(text)
    if value % 16:
        raise UserError(f"{text}: must be a multiple of 16; try {round(value / 16) * 16}")
    return value


DTYPES = ("float32", "bfloat16", "fast")  # of --dtype; what they mean: common/devices.py
DTYPES_HELP = "to compute in (default float32); fast: bfloat16 where this machine multiplies it fast, else float32"
SAMPLING_DTYPES = (*DTYPES, "float16")  # of what only runs a model, and is not compared with other runs
SAMPLING_DTYPES_HELP = "to compute in; default: bfloat16 on cuda, else float32; fast: bfloat16 on a fast processor too"

seed = whole(0, MOST_SEED)
steps = whole(1, MOST_STEPS)
batch = whole(1, 65_536)
workers = whole(0, MOST_WORKERS)
sampler_steps = whole(2, 10_000)
guidance = number(0, 100, above=True, mend="; 1 switches it off, 2 is usual")
strength = number(0, 1, above=True, mend="; at 1 nothing is left of the picture")


def mask(word: str) -> tuple[int, int, int, int] | Path:
    """x0,y0,x1,y1, a box in pixels from the upper left, x1 and y1 not included; or a picture, white where it counts."""
    if not re.fullmatch(r"[-\d]+(,[-\d]+)+", word):
        return existing_file(word)
    sides = tuple(map(int, word.split(","))) if re.fullmatch(r"\d{1,9}(,\d{1,9}){3}", word) else (0, 0, 0, 0)
    if not (sides[0] < sides[2] and sides[1] < sides[3]):
        raise UserError(f"{shown(word)}: give a box as x0,y0,x1,y1 with x0 below x1 and y0 below y1, or a picture")
    return sides


def text(word: str) -> str:
    """A text that can be encoded. Raises UserError if the terminal sent bytes that are no UTF-8."""
    if any("\ud800" <= character <= "\udfff" for character in word):
        raise UserError(f"{shown(word)}: holds bytes that are no UTF-8; type the text anew")
    return word


def path(word: str) -> Path:
    """A path that can exist, whether or not it does."""
    if not word:
        raise UserError("'': an empty name; give a path")
    if any(ord(character) < 32 or ord(character) == 127 for character in text(word)):
        raise UserError(f"{shown(word)}: a line break or another control character in the name; rename it")
    return Path(word)


def kind_of(given: Path) -> str | None:
    """What is at a path: "file", "folder", "fifo", "device", "socket", or None for nothing."""
    try:
        mode = given.stat().st_mode
    except FileNotFoundError:
        return None
    except OSError as error:
        raise UserError(f"{shown(str(given))}: {error.strerror}; name another") from error
    kinds = {stat.S_IFREG: "file", stat.S_IFDIR: "folder", stat.S_IFIFO: "fifo", stat.S_IFSOCK: "socket"}
    return kinds.get(stat.S_IFMT(mode), "device")


def place(*kinds: str | None, name: str) -> Callable[[str], Path]:
    """A type of paths at which one of `kinds` is; None among them: or nothing. name: what to name instead."""

    def parse(word: str) -> Path:
        if (kind := kind_of(given := path(word))) not in kinds:
            what = f"is a {kind}" if kind else f"no such {' or '.join(kinds)}"
            raise UserError(f"{shown(word)}: {what}; name {name}")
        return given

    return parse


existing_file = place("file", name="a file")
existing = place("file", "folder", name="a file or a folder")
weights_folder = place("folder", name="a weights folder, docs/checkpoints.md says where to get one")
output_file = place("file", None, name="a file to write")
output_folder = place("folder", None, name="a folder to write into")


def data_set(word: str) -> str:
    """phantom[:COUNT[:even]], or the file or folder of a data set; the word itself is what is kept."""
    if not names_phantoms(word):
        existing(word)
        return word
    given = re.fullmatch(r"phantom(?::(\d{0,8}))?(?::even)?", word)
    if not given or not 0 < int(given[1] or 1) <= MOST_EXAMPLES:
        mend = f"give phantom, phantom:COUNT or phantom:COUNT:even, COUNT at most {MOST_EXAMPLES:,}"
        raise UserError(f"{shown(word)}: {mend}")
    return word


def names_phantoms(word: str) -> bool:
    """Whether this --data is of rendered X-rays, and not a file or folder."""
    return word.split(":")[0] == "phantom"
