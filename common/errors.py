"""How every command ends: bad input is one line that says what is wrong and what to do, and so is the unforeseen."""

import contextlib
import errno
import gc
import multiprocessing
import os
import select
import sys
from collections.abc import Callable
from typing import NoReturn

FULL = (errno.ENOSPC, errno.EDQUOT)
# What Python says of an error before `run`, while a command imports torch: of Ctrl-C a line, too; of others as before.
others = sys.excepthook
sys.excepthook = lambda kind, *error: say("interrupted") if kind is KeyboardInterrupt else others(kind, *error)


class UserError(Exception):
    """Bad input. The message names the file or flag, says what is wrong with it and what to do."""


def run(main: Callable[[], object], last: bool = True) -> None:
    """Run a command's `main` and leave with its exit code; what it raises becomes one line on stderr.

    2: bad input (UserError). 130: Ctrl-C. 141: the reader of the output left, as `head` does; nothing is said. 1: what
    nobody foresaw; its traceback goes to a file.
    last: False for what only checks the command line, before imports that take seconds: if it is good, this returns,
    and garbage is not collected until the next call.
    """
    if hasattr(sys.stdout, "reconfigure"):  # a terminal may know ASCII alone, and a table must not end in an error
        sys.stdout.reconfigure(errors="replace")
    code = 0
    try:
        if not gc.isenabled():
            gc.freeze()  # what was imported in between is never looked through
            gc.enable()
        main()
        if not last:
            gc.disable()  # what torch's import makes, it keeps; looking for garbage in it costs a tenth of the time
            return
    except SystemExit as leaving:
        code = leaving.code
    except (Exception, KeyboardInterrupt) as error:
        code = explain(error)
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except (OSError, ValueError) as error:
        code = explain(error)
        discard_output()
    if "LOCAL_RANK" in os.environ:
        leave_team(code or 0)
    if code or not last:
        sys.exit(code)


def leave_team(code: int) -> NoReturn:
    """End this process of torchrun, whose files are written and whose stdout is flushed, without Python's own end.

    Gloo's threads outlive their group (seen with torch 2.13). One that lets go of a tensor while Python ends aborts the
    process ("terminate called without an active exception"), and torchrun calls a run failed that has succeeded.
    """
    for worker in multiprocessing.active_children():  # a loader's, after an error
        worker.terminate()
    with contextlib.suppress(OSError, ValueError, AttributeError):  # closed, or never there
        sys.stderr.flush()
    os._exit(code)


def explain(error: BaseException) -> int:
    """Say in a line what went wrong. Returns the exit code."""
    if isinstance(error, UserError):
        say(f"error: {error}")
        return 2
    if isinstance(error, PermissionError) and error.filename:
        say(f"error: {error.filename}: {error.strerror}; change its rights, or name another")
        return 2
    if isinstance(error, KeyboardInterrupt):
        say("interrupted")
        return 130
    if isinstance(error, BrokenPipeError) and reader_left():
        discard_output()
        return 141
    rank = f"rank {os.environ['RANK']}: " if "RANK" in os.environ else ""
    own = isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"  # Python's, a GPU's
    if own or (isinstance(error, RuntimeError) and "can't allocate memory" in str(error)):  # or torch's on a CPU
        say(f"error: {rank}out of memory; give a smaller --batch, --micro-batch, --size or --n")
    elif isinstance(error, OSError) and error.errno in FULL:
        name = f"{error.filename}: " if error.filename else ""
        say(f"error: {rank}{name}the disk is full ({error.strerror}); make room, or write to another folder")
    else:
        first = (str(error).strip().splitlines() or [""])[0]
        what = f"{type(error).__name__}: {first[:300]}".removesuffix(": ")
        say(f"error: {rank}unforeseen: {what}; traceback: {keep_traceback(error)}")
    return 1


def say(message: str) -> None:
    """One line on stderr, whatever the message holds."""
    visible = (c if c.isprintable() or c == "\u00a0" else c.encode("unicode_escape").decode() for c in message)
    print("".join(visible), file=sys.stderr, flush=True)


def keep_traceback(error: BaseException) -> str:
    """Write the traceback to a file of its own. Returns its name, or why there is none."""
    import tempfile
    import traceback

    try:
        number, name = tempfile.mkstemp(prefix="unix-traceback-", suffix=".txt")
        with open(number, "w", encoding="utf-8", errors="backslashreplace") as file:
            traceback.print_exception(error, file=file)
    except OSError as problem:
        return f"not kept ({problem.strerror})"
    return name


def reader_left() -> bool:
    """Whether what this process prints is a pipe that nobody reads. Other pipes break for other reasons."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(AttributeError, OSError, ValueError):  # no such stream, or a system without poll
            poll = select.poll()
            poll.register(stream.fileno(), 0)
            if any(event & select.POLLERR for _, event in poll.poll(0)):
                return True
    return False


def discard_output() -> None:
    """Python writes its buffers once more when it leaves: into nothing, so that it does not complain a second time."""
    nothing = os.open(os.devnull, os.O_WRONLY)
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(AttributeError, OSError, ValueError):
            os.dup2(nothing, stream.fileno())
