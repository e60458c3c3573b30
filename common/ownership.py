"""Who may write where: one run at a time in a folder, and nothing that is not ours is replaced.

with lock_folder(out): ...       another process that wants the same folder is refused; what a killed one left goes
own_folder(out, "--out")         absent, empty, or made by us: anything else is refused
own_file(path, "--out")          the same for one picture
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

from common.errors import UserError
from common.files import make_writable

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

LOCK = ".open-unix.lock"
MARK = ".open-unix"  # lies in every folder that a command made
PNG_MARK = b"Software\0open-unix"  # a tEXt chunk, as `pictures.save_png` writes it
SVG_MARK = "<!-- Software: open-unix -->"
MARK_TEXT = "A command of open-unix made this folder and may replace what it wrote here.\n"
UNSUPPORTED = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL}  # file systems without locks


@contextlib.contextmanager
def lock_folder(folder: str | Path, flag: str = "--out") -> Iterator[None]:
    """Hold the folder until the block ends. Raises UserError if another process holds it.

    The system releases the lock when the process dies, however it dies, so a kill leaves nothing to clean up. It is a
    POSIX record lock: NFS knows it too, and workers do not inherit it. Where a file system knows no locks, or the
    platform has none, one line says so and the run goes on. Under torchrun, rank 0 holds the lock for all.
    """
    if os.environ.get("RANK", "0") != "0":
        yield
        return
    folder = Path(folder)
    made = [path for path in (folder, *folder.parents) if not path.exists()]
    make_writable(folder, flag)
    try:
        with held(folder, flag):
            yield
    finally:
        if made and {path.name for path in folder.iterdir()} <= {LOCK}:  # the block refused before it wrote anything
            (folder / LOCK).unlink()
            with contextlib.suppress(OSError):  # others may have put something into the upper ones
                for path in made:
                    path.rmdir()


@contextlib.contextmanager
def held(folder: Path, flag: str) -> Iterator[None]:
    """The lock itself, in a folder that is there."""
    with open(folder / LOCK, "a+", encoding="utf-8") as file:
        try:
            lock(file.fileno())
        except OSError as error:
            if error.errno in UNSUPPORTED:
                print(f"{folder}: no locks on this file system; start no second run here", file=sys.stderr)
            else:
                file.seek(0)
                holder = " ".join(file.read(200).split()) or "another process"
                raise UserError(
                    f"{flag} {folder}: {holder} is at work in this folder; wait for it, stop it, or name another folder"
                ) from error
        else:
            file.truncate(0)
            file.write(f"process {os.getpid()} on {socket.gethostname()}\n")
            file.flush()
            clear_leftovers(folder)
        yield


def clear_leftovers(folder: Path) -> None:
    """Delete the temporary files of `write_atomically` that killed commands left in a folder of ours and in its own.

    Only for who holds the folder, so that nobody is still writing them.
    """
    if (folder / MARK).is_file():
        for left in (*folder.glob(".*.tmp"), *folder.glob("*/.*.tmp")):
            if re.fullmatch(r"\..+\.[0-9a-f]{8}\.tmp", left.name) and left.is_file():
                with contextlib.suppress(OSError):
                    left.unlink()


def lock(descriptor: int) -> None:
    """Lock an open file at once. Raises OSError if it is held, or if there are no locks."""
    if fcntl is not None:
        fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    else:
        raise OSError(errno.ENOSYS, "no locks")


def own_folder(folder: str | Path, flag: str = "--out") -> None:
    """Make the folder and mark it as ours. Raises UserError if it holds files and bears no mark."""
    folder = Path(folder)
    if folder.is_dir() and not (folder / MARK).is_file():
        # Other processes of the same command may be trying the folder at this moment.
        held = [path.name for path in folder.iterdir() if not path.name.startswith((LOCK, ".writable."))]
        if held and not (folder / MARK).is_file():  # asked again: one of them may have marked it in between
            what = ", ".join(sorted(held)[:3]) + (", ..." if len(held) > 3 else "")
            raise UserError(f"{flag} {folder}: holds {what}, which no command here made; name a new or an empty folder")
    make_writable(folder, flag)
    (folder / MARK).write_text(MARK_TEXT, encoding="utf-8")


def own_file(path: str | Path, flag: str = "--out") -> None:
    """Raises UserError if a picture could not be put at `path`, or if what is there is no picture of ours."""
    path = Path(path)
    folder = path.absolute().parent
    if path.is_dir():
        raise UserError(f"{flag} {path}: is a folder; name a file in it, for example {path / 'sample.png'}")
    if not folder.is_dir():
        raise UserError(f"{flag} {path}: no folder {folder}; make it first")
    if not os.access(folder, os.W_OK):
        raise UserError(f"{flag} {path}: may not write in {folder}; choose another folder")
    if os.path.lexists(path) and not is_our_picture(path):
        raise UserError(f"{flag} {path}: is there, and no command here made it; delete it or name another file")


def is_our_picture(path: Path) -> bool:
    """Whether `pictures.save_png` wrote this file, or it is an SVG with our mark."""
    try:
        with open(path, "rb") as file:
            start = file.read(4096)
            return PNG_MARK in start or SVG_MARK.encode() in start
    except OSError:
        return False
