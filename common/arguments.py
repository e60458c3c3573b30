"""The arguments of every command: numbers with a least and a most, paths that can exist, errors of one line.

A type turns a word of the command line into its value, or raises UserError that begins with the word; `Parser` puts the
flag before it: "--n 0: give a whole number from 1 to 10,000". A type can be called without a parser too. Torch is not
imported: a mistyped flag does not wait for it.
"""

from __future__ import annotations

import argparse
import errno
import math
import os
import re
import stat
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from common.errors import UserError

# The most that a command takes. A larger number is a slip: it would fill the memory or never end.
MOST_SEED = 2**63 - 1
MOST_EXAMPLES = 10_000_000  # of a data set
MOST_STEPS = 100_000_000  # of a training run
MOST_BATCH = 65_536
MOST_WORKERS = 256
MOST_PX = 4096

LONGEST_NAME = 255  # bytes, on Linux, macOS and Windows
LONGEST_NEW_NAME = 240  # what is written carries an ending until it is whole


# ---- the parser --------------------------------------------------------------------------------------------------

COMPLAINTS = {  # argparse's own -> ours
    r"the following arguments are required: (.*)": "{0}: missing; -h shows what to give",
    r"unrecognized arguments: (.*)": "{0}: not known here; -h lists the flags, and a text goes in quotes",
    r"argument (\S+): expected .*argument.*": "{0}: its value is missing; give one, as {0}=VALUE if it begins with -",
    r"argument (\S+): ignored explicit argument (.*)": "{0} {1}: takes no value; leave it out",
    r"ambiguous option: (\S+) could match (.*)": "{0}: could be {1}; write it out",
    r"argument (\S+): (.*)": "{0}: {1}; -h shows what to give",
}


class Parser(argparse.ArgumentParser):
    """An argparse parser whose errors are UserErrors of one line, and so are those of its subparsers."""

    def error(self, message: str) -> NoReturn:
        """Raises UserError where argparse would print its usage and leave."""
        for pattern, words in COMPLAINTS.items():
            if match := re.fullmatch(pattern, message, re.DOTALL):
                raise UserError(words.format(*match.groups()))
        raise UserError(f"{message}; -h shows what to give")

    # argparse has no public way to say "--n 0" in an error. These two have kept their names since Python 3.2.

    def _get_value(self, action: argparse.Action, text: str) -> object:
        try:
            return super()._get_value(action, text)
        except UserError as error:
            raise UserError(f"{before_value(action)}{error}") from None

    def _check_value(self, action: argparse.Action, value: object) -> None:
        if action.choices is not None and value not in action.choices:
            *others, last = map(str, action.choices)
            names = f"{', '.join(others)} or {last}" if others else last
            raise UserError(f"{before_value(action)}{shown(str(value))}: choose {names}")


def before_value(action: argparse.Action) -> str:
    """ "--seed " of a flag, "" of an argument that is known by its place."""
    return f"{action.option_strings[0]} " if action.option_strings else ""


def shown(text: str) -> str:
    """A word as a message shows it: an empty one in quotes, a long one cut."""
    return (text if len(text) <= 100 else f"{text[:80]}... ({len(text):,} characters)") or "''"


# ---- numbers -----------------------------------------------------------------------------------------------------


def whole(least: int, most: int, mend: str = "") -> Callable[[str], int]:
    """A whole number from `least` to `most`, both included. mend: what else to say of another."""

    def parse(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            value = None
        if value is None or not least <= value <= most:
            raise UserError(f"{shown(text)}: must be a whole number, at least {least} and at most {most:,}{mend}")
        return value

    return parse


def number(least: float, most: float, above: bool = False, mend: str = "") -> Callable[[str], float]:
    """A finite number from `least` to `most`. above: not `least` itself."""

    def parse(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not least <= value <= most or (above and value == least):
            lowest = f"above {least:g}" if above else f"at least {least:g}"
            raise UserError(f"{shown(text)}: must be a number {lowest} and at most {most:,g}{mend}")
        return value

    return parse


def size(text: str) -> int:
    """Pixels a side: a multiple of 16 up to MOST_PX."""
    value = whole(-(10**9), 10**9)(text)
    if value % 16 or not 16 <= value <= MOST_PX:
        nearest = min(max(16, round(value / 16) * 16), MOST_PX)
        raise UserError(f"{shown(text)}: must be a multiple of 16, at most {MOST_PX:,}; try {nearest}")
    return value


DTYPES = ("float32", "bfloat16", "fast")  # of --dtype; what they mean: common/devices.py
DTYPES_HELP = "to compute in (default float32); fast: bfloat16 where this machine multiplies it fast, else float32"
SAMPLING_DTYPES = (*DTYPES, "float16")  # of what only runs a model, and is not compared with other runs
SAMPLING_DTYPES_HELP = "to compute in; default: bfloat16 on cuda, else float32; fast: bfloat16 on a fast processor too"

seed = whole(0, MOST_SEED)
steps = whole(1, MOST_STEPS)
batch = whole(1, MOST_BATCH)
workers = whole(0, MOST_WORKERS)
sampler_steps = whole(2, 10_000)
guidance = number(0, 100, above=True, mend="; 1 switches it off, 2 is usual")
temperature = number(0, 100, mend="; 0 always takes the likeliest token")
strength = number(0, 1, above=True, mend="; at 1 nothing is left of the picture")


def mask(word: str) -> tuple[int, int, int, int] | Path:
    """x0,y0,x1,y1: a box in pixels from the upper left, x1 and y1 not included; or a picture, white where it counts."""
    if not re.fullmatch(r"-?\d+(,-?\d+)+", word):
        return existing_file(word)
    sides = [int(each) for each in word.split(",")]
    if len(sides) != 4 or not (0 <= sides[0] < sides[2] and 0 <= sides[1] < sides[3]):
        raise UserError(f"{shown(word)}: give a box as x0,y0,x1,y1 with x0 below x1 and y0 below y1, or a picture")
    return tuple(sides)


# ---- texts, files and folders ------------------------------------------------------------------------------------


def text(word: str) -> str:
    """A text that can be encoded. Raises UserError if the terminal sent bytes that are no UTF-8."""
    if any("\ud800" <= character <= "\udfff" for character in word):
        raise UserError(f"{shown(word)}: holds bytes that are no UTF-8; type the text anew")
    return word


def path(word: str, longest: int = LONGEST_NAME) -> Path:
    """A path that can exist, whether or not it does."""
    if not word:
        raise UserError("'': an empty name; give a path")
    if any(ord(character) < 32 or ord(character) == 127 for character in word):
        raise UserError(f"{shown(word)}: a line break or another control character in the name; rename it")
    if any("\ud800" <= character <= "\udfff" for character in word):
        raise UserError(f"{shown(word)}: the name is no UTF-8; rename it")
    names = Path(word).parts
    if len(os.fsencode(word)) > 4000 or any(len(os.fsencode(name)) > longest for name in names):
        raise UserError(f"{shown(word)}: the name is too long; a name has at most {longest} bytes, a path 4,000")
    return Path(word)


def existing_file(word: str) -> Path:
    """A file to read. Raises UserError for what is absent, a folder, or no file on a disk."""
    given, kind = examine(word)
    if kind != "file":
        raise UserError(f"{shown(word)}: {'no such file' if kind is None else f'is a {kind}'}; name a file")
    return given


def weights_folder(word: str) -> Path:
    """A folder with a network's weights; what is in it is for its loader to judge."""
    given, kind = examine(word)
    if kind != "folder":
        what = "no such folder" if kind is None else f"is a {kind}"
        raise UserError(f"{shown(word)}: {what}; name a weights folder, docs/checkpoints.md says where to get one")
    return given


def existing(word: str) -> Path:
    """A file or a folder to read."""
    given, kind = examine(word)
    if kind not in ("file", "folder"):
        what = "no such file or folder" if kind is None else f"is a {kind}"
        raise UserError(f"{shown(word)}: {what}; name a file or a folder")
    return given


def output_file(word: str) -> Path:
    """A file to write: absent or a file."""
    given, kind = examine(word, LONGEST_NEW_NAME)
    if kind == "folder":
        raise UserError(f"{shown(word)}: is a folder; name a file in it")
    if kind not in (None, "file"):
        raise UserError(f"{shown(word)}: is a {kind}; name a file")
    return given


def output_folder(word: str) -> Path:
    """A folder to write into: absent or a folder."""
    given, kind = examine(word, LONGEST_NEW_NAME)
    if kind not in (None, "folder"):
        raise UserError(f"{shown(word)}: is a {kind}; name a folder")
    return given


def data_set(word: str) -> str:
    """phantom[:COUNT[:even]], or the file or folder of a data set; the word itself is what is kept."""
    name, _, count = word.removesuffix(":even").partition(":")
    if name == "phantom":
        if count:
            try:
                whole(1, MOST_EXAMPLES)(count)
            except UserError as error:
                mend = f"give phantom, phantom:COUNT or phantom:COUNT:even, COUNT at most {MOST_EXAMPLES:,}"
                raise UserError(f"{shown(word)}: {mend}") from error
        return word
    _, kind = examine(word)
    if kind not in ("file", "folder"):
        what = "" if kind is None else f"is a {kind}; give "
        raise UserError(
            f"{shown(word)}: {what or 'neither '}phantom[:COUNT]{' or' if what else ' nor'} a file or folder"
        )
    return word


def names_phantoms(word: str) -> bool:
    """Whether this --data is of drawn X-rays, and not a file or folder."""
    return word.split(":")[0] == "phantom"


def examine(word: str, longest: int = LONGEST_NAME) -> tuple[Path, str | None]:
    """(the path, what is there: "file", "folder", "fifo", "device", "socket", or None for nothing)."""
    given = path(word, longest)
    try:
        mode = given.stat().st_mode
    except FileNotFoundError:
        return given, None
    except OSError as error:
        mends = {
            errno.ENOTDIR: "a part of the path is a file, not a folder",
            errno.ELOOP: "its links lead in a circle",
            errno.EACCES: "may not be looked at",
        }
        what = mends.get(error.errno) or error.strerror or str(error)
        raise UserError(f"{shown(word)}: {what}; name another") from error
    kinds = {stat.S_IFREG: "file", stat.S_IFDIR: "folder", stat.S_IFIFO: "fifo", stat.S_IFSOCK: "socket"}
    return given, kinds.get(stat.S_IFMT(mode), "device")
