"""A command ends in one line and an exit code, whatever happens inside of it."""

import gc
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from common import errors

ROOT = Path(__file__).parents[2]


def end(body, *flags, **more):
    """Run `body` as the main of a command, in a process of its own."""
    code = f"import errno, os, sys\nfrom common.errors import UserError, run\ndef main():\n    {body}\nrun(main)"
    environment = {**os.environ, **more.pop("environment", {})}
    command = [sys.executable, "-c", code, *flags]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60, **more)


@pytest.mark.parametrize(
    ("body", "code", "words"),
    [
        ("print('fine')", 0, []),
        ("raise UserError('--n 0: give 1')", 2, ["error: --n 0: give 1"]),
        (r"raise UserError('a\nb\udcff\x1b[31m: a name')", 2, [r"error: a\nb\udcff\x1b[31m: a name"]),
        ("raise KeyboardInterrupt", 130, ["interrupted"]),
        ("sys.exit(3)", 3, []),
        ("raise TypeError('one\\ntwo')", 1, ["error: unforeseen: TypeError: one;", "traceback: /"]),
        ("raise AssertionError", 1, ["error: unforeseen: AssertionError;"]),
        ("raise MemoryError", 1, ["error: out of memory", "--batch"]),
        ("raise RuntimeError('DefaultCPUAllocator: can\\'t allocate memory')", 1, ["error: out of memory"]),
        ("raise type('OutOfMemoryError', (RuntimeError,), {})('CUDA out of memory')", 1, ["error: out of memory"]),
        ("raise OSError(errno.ENOSPC, 'No space left', 'x.png')", 1, ["x.png: the disk is full", "make room"]),
        ("open('/')", 1, ["error: unforeseen: IsADirectoryError"]),
        ("raise PermissionError(13, 'Permission denied', 'a')", 2, ["error: a: Permission denied; change its rights"]),
        ("raise PermissionError('of a socket')", 1, ["error: unforeseen: PermissionError: of a socket"]),
        ("raise BrokenPipeError('of a worker')", 1, ["error: unforeseen: BrokenPipeError: of a worker"]),
    ],
)
def test_an_end_is_at_most_one_line(body, code, words, tmp_path):
    result = end(body, environment={"TMPDIR": str(tmp_path)})
    assert result.returncode == code, result.stderr
    assert result.stderr.count("\n") == bool(words) and "Traceback" not in result.stderr
    assert all(word in result.stderr for word in words), result.stderr


def test_a_process_of_torchrun_ends_with_its_own_code_whatever_its_threads_do():
    """A thread that takes a tensor while Python ends, as Gloo's may, aborts a process that ends the usual way."""
    spin = "import threading, time, torch; tensor = torch.zeros(9); spin = lambda: [tensor + 1 for _ in iter(int, 1)]"
    body = f"{spin}; threading.Thread(target=spin, daemon=True).start(); time.sleep(0.2); print('done')"
    for last, code in (("", 0), ("; sys.exit(3)", 3), ("; raise UserError('--n 0: give 1')", 2)):
        result = end(body + last, environment={"LOCAL_RANK": "0"})
        assert (result.returncode, result.stdout) == (code, "done\n"), result.stderr


def test_the_traceback_of_the_unforeseen_lies_in_a_file_of_its_own(tmp_path):
    results = [end("raise TypeError('inside')", "--n", "3", environment={"TMPDIR": str(tmp_path)}) for _ in range(2)]
    names = [re.search(r"traceback: (\S+)", result.stderr).group(1) for result in results]
    assert len(set(names)) == 2 and sorted(tmp_path.iterdir()) == sorted(map(Path, names))
    for name in map(Path, names):
        assert name.match("unix-traceback-*.txt")
        text = name.read_text()
        assert "Traceback" in text and "in main" in text and "TypeError: inside" in text


def test_a_folder_for_tracebacks_that_cannot_be_written_is_said(tmp_path):
    # tempfile tries other folders before it gives up.
    result = end("import tempfile; tempfile.tempdir = '/nowhere'; raise TypeError('x')")
    assert result.returncode == 1 and result.stderr.count("\n") == 1 and "not kept (No such file" in result.stderr


def test_under_torchrun_the_line_names_the_rank():
    result = end("raise TypeError('x')", environment={"RANK": "3"})
    assert result.stderr.startswith("error: rank 3: unforeseen: TypeError: x;")


@pytest.mark.parametrize(
    "body",
    [
        "print('y\\n' * 1000000)",
        "[print(i, flush=True) for i in range(1000000)]",
        "print('y\\n' * 1000000); sys.exit(2)",
        "sys.stdin.read(); print('short')",  # the reader is gone before the buffer is written, when Python leaves
    ],
)
def test_a_reader_that_leaves_ends_the_command_quietly(body):
    code = f"import sys\nfrom common.errors import run\ndef main():\n    {body}\nrun(main)"
    command = [sys.executable, "-c", code]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, cwd=ROOT, text=True, **pipes) as process:
        if "short" not in body:
            process.stdout.readline()
        process.stdout.close()
        process.stdin.close()
        assert process.stderr.read() == ""
        assert process.wait(60) in (141, 2 if "exit" in body else 141)


def test_no_output_at_all_and_a_full_one():
    command = [sys.executable, "-c", "from common.errors import run\nrun(lambda: print('x'))"]
    closed = subprocess.run(["sh", "-c", '"$@" >&-', "sh", *command], cwd=ROOT, capture_output=True, text=True)
    assert (closed.returncode, closed.stderr) == (0, "")
    if os.path.exists("/dev/full"):
        full = subprocess.run(["sh", "-c", '"$@" >/dev/full', "sh", *command], cwd=ROOT, capture_output=True, text=True)
        assert full.returncode == 1 and full.stderr.count("\n") == 1 and "the disk is full" in full.stderr


@pytest.mark.parametrize(
    "command",
    ["train.py --stage 1", "sample.py Normal.", "edit.py README.md Normal.", "data.py stats .", "weights.py inspect ."]
    + ["-m studies.attention", "-m speed.bench", "-m checkpoints.presets", "-m judges.trained_classifier"],
)
def test_ctrl_c_while_torch_is_imported_is_a_line(command, tmp_path):
    """Python imports this torch instead, which asks to be interrupted."""
    (tmp_path / "torch.py").write_text("raise KeyboardInterrupt")
    paths = {**os.environ, "PYTHONPATH": str(tmp_path), "PYTHONSAFEPATH": "1"}
    how, words = "path", command.split()
    if words[0] == "-m":
        how, words = "module", words[1:]
    code = f"import sys, runpy; sys.argv = {words!r}; sys.path.append({str(ROOT)!r})"
    words = [sys.executable, "-c", f"{code}; runpy.run_{how}(sys.argv[0], run_name='__main__')"]
    ran = subprocess.run(words, capture_output=True, text=True, cwd=ROOT, env=paths, timeout=60)
    assert ran.stderr == "interrupted\n" and ran.returncode in (130, -2)


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_a_terminal_that_lacks_a_sign_shows_a_question_mark(encoding):
    result = end(
        r"print('macro \u2013 Gr\xf6\xdfe'); print('\u2014', file=sys.stderr)",
        environment={"PYTHONIOENCODING": encoding},
        encoding=encoding,
    )
    shown = "macro – Größe\n".encode(encoding, "replace").decode(encoding)
    assert (result.returncode, result.stdout) == (0, shown), result.stderr


def test_no_garbage_is_looked_for_while_a_command_imports_torch():
    try:
        errors.run(lambda: None, last=False)
        assert not gc.isenabled()
        errors.run(lambda: None)
        assert gc.isenabled() and gc.get_freeze_count()
    finally:
        gc.enable()
        gc.unfreeze()
