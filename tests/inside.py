"""A command in this process: one of its own would import torch first, which takes seconds."""

import contextlib
import io
import signal
import subprocess
import sys

import pytest

import attention
from common import errors
from common.workers import ASKING


def run_inside(main, *words, cwd=None):
    """What subprocess.run would return of a command's `main`."""
    out, err, code = io.StringIO(), io.StringIO(), 0
    handlers = {number: signal.getsignal(number) for number in ASKING}  # a run of training sets its own
    words = [f"{main.__module__}.py", *map(str, words)]
    try:
        with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            patch.setattr(sys, "argv", words)
            patch.setattr(attention, "attend", attention.attend)  # speed/cpu.py sets its own
            if cwd is not None:
                patch.chdir(cwd)
            errors.run(main)
    except SystemExit as left:
        code = left.code or 0
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
    return subprocess.CompletedProcess(words, code, out.getvalue(), err.getvalue())
