"""Who may write where: one run at a time in a folder, and nothing that is not ours is replaced."""

import contextlib
import errno
import os
import re
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

from common.errors import UserError
from common.files import make_writable

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

LOCK = ".open-unix.lock"
MARK = ".open-unix"  # lies in every folder that a command made
PNG_MARK = b"Software\0open-unix"  # a tEXt chunk, as `pictures.save_png` writes it
MARK_TEXT = "A command of open-unix made this folder and may replace what it wrote here.\n"


@contextlib.contextmanager
def lock_folder(folder: str | Path) -> Iterator[None]:
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
    make_writable(folder)
    with open(folder / LOCK, "a+", encoding="utf-8") as file:
        lock(file, f"--out {folder}")
        try:
            yield
        finally:
            if made and os.listdir(folder) == [LOCK]:  # the block refused before it wrote anything
                (folder / LOCK).unlink()
                with contextlib.suppress(OSError):  # others may have put something into the upper ones
                    for path in made:
                        path.rmdir()


def lock(file: TextIO, what: str) -> None:
    """Lock the open file of a folder at once, write who holds it, and delete the temporary files of `write_atomically`
    that killed commands left: nobody is still writing them."""
    try:
        if fcntl is None:
            raise OSError("no locks on this platform")
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno not in (errno.EACCES, errno.EAGAIN):
            print(f"{what}: cannot be locked ({error}); start no second run here", file=sys.stderr)
            return
        file.seek(0)
        holder = " ".join(file.read(200).split()) or "another process"
        mend = "wait for it, stop it, or name another folder"
        raise UserError(f"{what}: {holder} is at work in this folder; {mend}") from error
    file.truncate(0)
    file.write(f"process {os.getpid()} on {socket.gethostname()}\n")
    file.flush()
    folder = Path(file.name).parent
    for left in (*folder.glob(".*.tmp"), *folder.glob("*/.*.tmp")) if (folder / MARK).is_file() else ():
        if re.fullmatch(r"\..+\.[0-9a-f]{8}\.tmp", left.name) and left.is_file():
            with contextlib.suppress(OSError):
                left.unlink()


def own_folder(folder: str | Path) -> None:
    """Make the folder and mark it as ours. Raises UserError if it holds files and bears no mark."""
    folder = Path(folder)
    if folder.is_dir() and not (folder / MARK).is_file():
        # Other processes of the same command may be trying the folder at this moment.
        held = sorted(path.name for path in folder.iterdir() if not path.name.startswith((LOCK, ".writable.")))
        if held and not (folder / MARK).is_file():  # asked again: one of them may have marked it in between
            what = ", ".join(held[:3]) + ", ..." * (len(held) > 3)
            raise UserError(f"--out {folder}: holds {what}, which no command here made; name a new or an empty folder")
    make_writable(folder)
    (folder / MARK).write_text(MARK_TEXT, encoding="utf-8")


def own_file(path: str | Path) -> None:
    """Raises UserError if a picture could not be put at `path`, or if what is there is no picture of ours."""
    path, folder = Path(path), Path(path).absolute().parent
    if path.suffix.lower() not in ("", ".png"):
        raise UserError(f"--out {path}: a PNG is written; name it {path.stem}.png")
    if not folder.is_dir():
        raise UserError(f"--out {path}: no folder {folder}; make it first")
    make_writable(folder)
    start = b""
    if path.is_file():
        with open(path, "rb") as file:  # of a large file its start alone
            start = file.read(4096)
    if os.path.lexists(path) and PNG_MARK not in start:
        raise UserError(f"--out {path}: is there, and no command here made it; delete it or name another file")
