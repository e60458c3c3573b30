"""Processes that load data: how many, what they ignore, how they end, and what is said when one does not end well."""

import os
import signal
from collections.abc import Iterable, Iterator

from common.errors import UserError

# Ctrl-C, a scheduler, a terminal that is closed (Windows has no such signal).
ASKING = {getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)}


def default_workers() -> int:
    """One process a core, at most 8."""
    return min(8, os.cpu_count() or 1)


def ignore_signals(worker: int) -> None:
    """A signal reaches every process; whether and when to stop is the training process's decision."""
    for number in ASKING:
        signal.signal(number, signal.SIG_IGN)


def started(loader: Iterable) -> Iterator:
    """The iterator of a DataLoader. A signal waits until its processes have started, and they never get it: one that
    came before `ignore_signals` would end them with a traceback."""
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        return iter(loader)
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ASKING)
    try:
        return iter(loader)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def stop_workers(iterator: Iterator) -> None:
    """End the loading processes of a DataLoader's iterator, also one that is stuck.

    They ignore SIGTERM, with which Python ends them at exit before it waits for them: an error would wait for ever.
    """
    if workers := getattr(iterator, "_workers", None):
        iterator._shutdown_workers()  # asks each to leave and waits 5 s for it
        for worker in workers:
            if worker.is_alive():
                worker.kill()


def unbroken(batches: Iterator) -> Iterator:
    """The batches, with what goes wrong in a loading process said in one line."""
    try:
        yield from batches
    except UserError as error:  # of a worker: torch puts a traceback into the message
        raise UserError(str(error).strip().splitlines()[-1].split("UserError: ")[-1]) from error
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):
            raise
        raise UserError("a data loading process died (out of memory?); give fewer --workers") from error
