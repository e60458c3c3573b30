"""Files that are whole or absent, JSON as every command reads it, and the hash that names a cache."""

import contextlib
import hashlib
import json
import math
import os
import secrets
from collections.abc import Iterator
from pathlib import Path

from common.errors import UserError

SHIPPED = Path(__file__).parent.parent / "assets" / "tiny"  # the tiny model that comes with the repository
FAST_ADAPTER = "fast.safetensors"  # beside weights: what train.py --stage reflow made of them, for `sample.py --fast`
DEEPEST = 100  # levels of a JSON file


@contextlib.contextmanager
def write_atomically(path: str | Path) -> Iterator[Path]:
    """A temporary path beside `path`: the block writes it, and it is renamed over `path` when the block ends.

    If the block raises, the temporary file goes and what was at `path` stays as it was. Folders are made. Raises
    UserError if the file cannot be written.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name[:100]}.{secrets.token_hex(4)}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        os.replace(temporary, path)
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror or error}); choose another folder") from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def write_text(path: str | Path, text: str) -> None:
    """Write a UTF-8 file atomically, half characters as "?". Raises UserError if it cannot be written."""
    with write_atomically(path) as temporary:
        temporary.write_text(text, encoding="utf-8", errors="replace", newline="")


def read_json(path: Path, absent: dict | None = None) -> dict:
    """The JSON object in a file. absent: what stands for a file that is not there.

    Raises UserError naming the file if it is not there, holds no object, or what none of our files can mean: a number
    that is not finite, a NUL (no path can hold one), more than DEEPEST levels (whoever prints them would overflow).
    """
    if absent is not None and not os.path.lexists(path):
        return absent
    try:
        if not path.is_file():
            raise UserError(f"{path}: missing; make or fetch it again")
        text = path.read_text(encoding="utf-8-sig")
        if "\\u0000" in text:
            raise ValueError("it holds a NUL")
        values = json.loads(text, parse_float=finite, parse_constant=finite)
        if levels(values) > DEEPEST:
            raise ValueError(f"more than {DEEPEST} levels")
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path}: not readable JSON ({error}); make or fetch it again") from error
    if not isinstance(values, dict):
        raise UserError(f"{path}: a JSON object is expected; make or fetch it again")
    return values


def finite(text: str) -> float:
    """A number of JSON. Raises ValueError for NaN, Infinity and 1e999."""
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text} is no finite number")
    return value


def levels(value: object) -> int:
    """How deep lists and objects lie in each other: 0 for a number or a text."""
    if not isinstance(value, (dict, list)):
        return 0
    return 1 + max(map(levels, value.values() if isinstance(value, dict) else value), default=0)


def make_writable(folder: Path) -> None:
    """Make `folder`, that of --out, and find out before minutes of work whether anything can be written there. Several
    processes may ask at once."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        trial = folder / f".writable.{secrets.token_hex(4)}"
        trial.touch()
        trial.unlink()
    except OSError as error:
        raise UserError(f"--out {folder}: cannot write there ({error.strerror}); name another folder") from error


def source_hash(folder: Path) -> str:
    """10 hex digits of the Python files in a folder. A cache named by them is made again when the code changes."""
    digest = hashlib.sha256()
    for file in sorted(folder.glob("*.py")):
        digest.update(file.name.encode() + file.read_bytes())
    return digest.hexdigest()[:10]
