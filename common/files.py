"""Files that are whole or absent, a folder that can be written, and the hash that names a cache."""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
from collections.abc import Iterator
from pathlib import Path

from common.errors import UserError

SHIPPED = Path(__file__).parent.parent / "assets" / "tiny"  # the tiny model that comes with the repository


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


def make_writable(folder: Path, flag: str = "--out") -> None:
    """Make `folder`, and find out before minutes of work whether anything can be written there.

    Raises UserError that names `flag`. Several processes may ask at once.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        trial = folder / f".writable.{secrets.token_hex(4)}"
        trial.touch()
        trial.unlink()
    except OSError as error:
        raise UserError(f"{flag} {folder}: cannot write there ({error.strerror}); name another folder") from error


def source_hash(*folders: str | Path) -> str:
    """10 hex digits of the Python files in `folders`. A cache named by them is made again when the code changes."""
    digest = hashlib.sha256()
    for file in sorted(file for folder in folders for file in Path(folder).glob("*.py")):
        digest.update(file.name.encode() + file.read_bytes())
    return digest.hexdigest()[:10]
