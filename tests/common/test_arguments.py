"""Every command refuses bad arguments at once: one line that names the flag, the value and the mend, exit code 2."""

import importlib
import os
import socket
import time
from pathlib import Path

import numpy as np
import pytest
import torch

import data
from common import arguments, devices
from common.arguments import Parser
from common.devices import pick_device, pick_dtype
from common.errors import UserError
from inside import run_inside
from phantoms.dataset import phantom

# ---- the types, one by one ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("parse", "word", "value"),
    [
        (arguments.seed, "0", 0),
        (arguments.seed, str(2**63 - 1), 2**63 - 1),
        (arguments.whole(-3, 3), "-3", -3),
        (arguments.size, "16", 16),
        (arguments.size, "4096", 4096),
        (arguments.number(0, 1), "0", 0.0),
        (arguments.number(0, 10, above=True), "1e-4", 1e-4),
        (arguments.guidance, "100", 100.0),
        (arguments.mask, "0,0,9,20", (0, 0, 9, 20)),
        (arguments.text, "Größe\n", "Größe\n"),
        (arguments.path, "no/such", Path("no/such")),
        (arguments.data_set, "phantom", "phantom"),
        (arguments.data_set, "phantom:12", "phantom:12"),
        (arguments.data_set, "phantom:", "phantom:"),
        (arguments.data_set, "phantom:12:even", "phantom:12:even"),
    ],
)
def test_good_words_become_values(parse, word, value):
    assert parse(word) == value


@pytest.mark.parametrize("word", ["-1", str(2**63), "1.5", "1e9", "nan", "", "0x10", "9" * 5000, "\udcff"])
def test_a_seed_is_a_whole_number_of_63_bits(word):
    with pytest.raises(UserError, match=r"must be a whole number, at least 0 and at most 9,223,372,036,854,775,807"):
        arguments.seed(word)


@pytest.mark.parametrize("word", ["nan", "inf", "-inf", "1e999", "0", "-0.0", "11", "", "one"])
def test_a_number_is_finite_and_in_its_range(word):
    with pytest.raises(UserError, match="must be a number above 0 and at most 10"):
        arguments.number(0, 10, above=True)(word)


@pytest.mark.parametrize(("word", "near"), [("100", 96), ("250", 256)])
def test_a_size_that_is_no_multiple_of_16_is_told_the_nearest(word, near):
    with pytest.raises(UserError, match=rf"{word}: must be a multiple of 16.*try {near}$"):
        arguments.size(word)


@pytest.mark.parametrize("word", ["0", "-16", "4112"])
def test_a_size_is_from_16_to_4096(word):
    with pytest.raises(UserError, match=rf"{word}: must be a whole number, at least 16 and at most 4,096"):
        arguments.size(word)


@pytest.fixture
def odd(tmp_path, monkeypatch):
    """A folder with one of each: a file, a folder, a fifo, a socket, links in a circle, a link to nowhere."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("x")
    (tmp_path / "folder").mkdir()
    os.mkfifo("fifo")
    os.symlink("circle", "circle")
    os.symlink("nowhere", "dangling")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("socket")
    return tmp_path


FILE, FOLDER, EITHER = arguments.existing_file, arguments.weights_folder, arguments.existing
NEW_FILE, NEW_FOLDER, DATA = arguments.output_file, arguments.output_folder, arguments.data_set
ALL = (FILE, FOLDER, EITHER, NEW_FILE, NEW_FOLDER, DATA)


@pytest.mark.parametrize(
    ("types", "word", "words"),
    [
        (ALL, "", ["''", "empty"]),
        (ALL, "a\0b", ["control character", "rename"]),
        (ALL, "a\nb", ["control character", "rename"]),
        (ALL, "a\udcff", ["no UTF-8"]),
        (ALL, "ä" * 128, ["too long"]),
        (ALL, "x" * 300, ["300 characters", "too long"]),
        (ALL, "x/" * 2100, ["too long"]),
        (ALL, "file/in", ["file/in", "Not a directory"]),
        (ALL, "circle", ["circle", "symbolic links"]),
        (ALL, "fifo", ["is a fifo"]),
        (ALL, "socket", ["is a socket"]),
        (ALL, "/dev/zero", ["/dev/zero: is a device"]),
        ((FILE, FOLDER, EITHER, DATA), "absent", ["absent: no such"]),
        ((FILE, FOLDER, EITHER), "dangling", ["dangling: no such"]),
        ((FILE, NEW_FILE), "folder", ["folder: is a folder", "name a file"]),
        ((FOLDER, NEW_FOLDER), "file", ["file: is a file", "folder"]),
        ((DATA,), "phantom:0", ["phantom:0", "phantom:COUNT"]),
        ((DATA,), "phantom:x", ["phantom:x", "phantom:COUNT"]),
        ((DATA,), "phantom:12:odd", ["phantom:12:odd", "phantom:COUNT:even"]),
        ((DATA,), "phantom:1000000000000", ["at most 10,000,000"]),
        ((arguments.text,), "a \udcff b", ["no UTF-8"]),
        ((arguments.mask,), "9,9,9,20", ["x0,y0,x1,y1"]),
        ((arguments.mask,), "0,0,9", ["x0,y0,x1,y1"]),
    ],
)
def test_a_path_that_cannot_serve_is_refused_by_name(odd, types, word, words):
    for parse in types:
        with pytest.raises(UserError) as refused:
            parse(word)
        assert all(part in str(refused.value) for part in words), (parse, refused.value)


def test_a_path_that_can_serve_is_taken(odd):
    assert FILE("file") == EITHER("file") == NEW_FILE("file") == Path("file") and DATA("file") == "file"
    assert FOLDER("folder") == EITHER("folder") == NEW_FOLDER("folder") == Path("folder")
    assert NEW_FILE("new/file") == NEW_FOLDER("new/file") == Path("new/file") and NEW_FILE("dangling")
    assert NEW_FILE("Röntgen bild.png") == Path("Röntgen bild.png")


# ---- the parser --------------------------------------------------------------------------------------------------


def parser():
    whole = Parser(prog="x.py")
    commands = whole.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name in ("draw", "read"):
        one = commands.add_parser(name)
        one.add_argument("--count", "-c", type=arguments.whole(1, 1000))
        one.add_argument("--color", choices=["grey"])
        one.add_argument("--quick", action="store_true")
        one.add_argument("--out", type=NEW_FOLDER)
        one.add_argument("place", choices=["here", "there", "both"])
    return whole


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("", "arguments are required: COMMAND; -h"),
        ("paint", "COMMAND: invalid choice: 'paint'"),
        ("draw", "arguments are required: place; -h"),
        ("draw away", "place: invalid choice: 'away'"),
        ("draw here --count 0", "--count 0: must be a whole number, at least 1 and at most 1,000"),
        ("draw here -c two", "--count two: must be a whole number"),
        ("draw here --count", "--count/-c: expected one argument; -h"),
        ("draw here --color red", "--color: invalid choice: 'red'"),
        ("draw here --colour red now", "unrecognized arguments: --colour red now; -h"),
        ("draw here --out /dev/null/out", "--out /dev/null/out: Not a directory; name another"),
    ],
)
def test_an_error_of_argparse_is_one_of_ours(words, said, capsys):
    with pytest.raises(UserError) as refused:
        parser().parse_args(words.split())
    assert said in str(refused.value) and "\n" not in str(refused.value)
    assert capsys.readouterr() == ("", "")


def test_help_is_still_argparses(capsys):
    with pytest.raises(SystemExit) as left:
        parser().parse_args(["draw", "-h"])
    assert left.value.code == 0 and "usage: x.py draw" in capsys.readouterr().out


# ---- the commands ------------------------------------------------------------------------------------------------

HUGE = "1000000000000"
TRAIN, SAMPLE, IMAGE, PHANTOM = (
    "train.py --stage 1",
    "sample.py Edema.",
    "evaluate.py image --real .",
    "evaluate.py phantom",
)
REFUSED = [
    ("train.py", "", ["--stage"]),
    ("train.py", "--stage 9", ["--stage", "'9'"]),
    *((TRAIN, f"--{flag} {value}", [f"--{flag} {value}"]) for flag, value in [
        ("batch", "1e9"), ("batch", "1000000000"), ("batch", "0"), ("micro-batch", HUGE), ("workers", "100000"),
        ("workers", "-1"), ("steps", HUGE), ("steps", "0"), ("lr", "nan"), ("lr", "inf"), ("lr", "0"),
        ("decay", "nan"), ("decay", "1.5"), ("seed", "-1"), ("seed", str(2**63)), ("size", "100"), ("size", HUGE),
        ("save-every", "0"), ("look-every", HUGE), ("warmup", "-1"), ("mix", "1:x"), ("mix", f"1:{HUGE}"),
        ("init", "/dev/zero"),
        ("init", "absent"), ("data", "/dev/zero"), ("data", "fifo"), ("data", f"phantom:{HUGE}"), ("out", "fifo"),
        ("out", "file"), ("out", "file/out"), ("cache", "file"), ("repa", "circle"),
    ]),
    (TRAIN, "--train all", ["--train", "'all'"]),
    (TRAIN, "--train both", ["--train both"]),
    (TRAIN, "--dtype int8", ["--dtype", "'int8'"]),
    (SAMPLE, "--steps rk4:5", ["--steps", "rk4:5", "ab2"]),
    (TRAIN, "--repa folder", ["--repa folder", "stage 2"]),
    ("train.py --stage 2", "--mix 1:2", ["--mix 1:2", "--train both"]),
    *((SAMPLE, f"--{flag} {value}", [f"--{flag} {value}"]) for flag, value in [
        ("n", "100000000"), ("n", "0"), ("steps", HUGE), ("steps", "1"), ("seed", str(2**63)), ("guidance", "inf"),
        ("guidance", "nan"), ("guidance", "0"), ("size", "17"), ("weights", "fifo"), ("weights", "absent"),
        ("out", "/dev/null"), ("out", "folder"), ("out", "fifo"),
    ]),
    ("sample.py", "--image fifo", ["--image fifo: is a fifo"]),
    ("sample.py", "--image file /dev/zero", ["--image /dev/zero: is a device"]),
    ("sample.py", "--image folder", ["--image folder: is a folder"]),
    ("evaluate.py", "", ["COMMAND"]),
    ("evaluate.py", "video", ["'video'"]),
    *((command, f"--{flag} {value}", [f"--{flag} {value}"]) for command in (PHANTOM, IMAGE) for flag, value in [
        ("n", "1"), ("n", "100000000"), ("steps", HUGE), ("guidance", "inf"), ("guidance", "nan"), ("batch", "1e9"),
        ("seed", str(2**63)), ("size", "8"), ("weights", "file"), ("out", "fifo"), ("cache", "file"),
    ]),
    (IMAGE, "--fake /dev/zero", ["--fake /dev/zero: is a device"]),
    (IMAGE, "--raddino absent", ["--raddino absent: no such folder"]),
    (PHANTOM, "--classifier fifo", ["--classifier fifo: is a fifo"]),
    ("evaluate.py report", "--predictions fifo", ["--predictions fifo: is a fifo"]),
    ("evaluate.py report", f"--data phantom:{HUGE}", ["--data phantom:", "at most 10,000,000"]),
    ("weights.py", "", ["COMMAND"]),
    ("weights.py inspect", "fifo", ["fifo: is a fifo"]),
    ("weights.py inspect", "absent", ["absent: no such file or folder"]),
    ("weights.py convert folder new", "--vae absent", ["--vae absent: no such file"]),
    ("weights.py convert folder", "file", ["file: is a file"]),
    ("weights.py convert file", "new", ["file: is a file"]),
    ("data.py stats", "/dev/zero", ["/dev/zero: is a device"]),
    ("data.py stats", "fifo", ["fifo: is a fifo"]),
    ("data.py stats .", "--out folder", ["--out folder: is a folder"]),
    ("data.py check .", "--workers 0", ["--workers 0"]),
    ("data.py check .", "--workers 100000", ["--workers 100000", "at most 256"]),
    *(("-m phantoms --out new --n 1", f"--{flag} {value}", [f"--{flag} {value}"]) for flag, value in [
        ("n", "100000000"), ("n", "0"), ("seed", str(2**63)), ("size", "100"), ("size", HUGE),
        ("out", "file"), ("out", "fifo"),
    ]),
    ("-m phantoms", "--out new", ["required: --n"]),
    ("-m reports.labeler", "", ["text"]),
    ("-m reports.labeler", "measure fifo", ["fifo: is a fifo"]),
    ("-m speed.bench", "--repeat 0", ["--repeat 0"]),
    ("-m speed.cost", "--stage 1", ["--stage 1"]),
    ("-m speed.gpu", "--device abacus", ["--device abacus"]),
    ("-m studies.autoencoder", "--n 0", ["--n 0"]),
    ("-m studies.autoencoder", "--weights absent", ["--weights absent: no such folder"]),
    ("-m studies.attention", "--n 1", ["--n 1", "at least 2"]),
    ("-m studies.attention", "--weights absent", ["--weights absent: no such folder"]),
    ("-m judges.trained_classifier", "--out fifo", ["--out fifo: is a fifo"]),
    ("-m judges.trained_classifier", "--out file", ["--out file: is there and no classifier of ours"]),
]  # fmt: skip
SCRIPTS = sorted({" ".join(command.split()[: 2 if command.startswith("-m") else 1]) for command, _, _ in REFUSED})


@pytest.mark.parametrize("script", SCRIPTS)
def test_every_command_refuses_at_once_in_one_line(odd, script):
    name = script.removeprefix("-m ").removesuffix(".py")
    module = importlib.import_module("phantoms.__main__" if name == "phantoms" else name)
    before = sorted(odd.iterdir())
    for command, more, expected in [row for row in REFUSED if f"{row[0]} ".startswith(f"{script} ")]:
        began = time.perf_counter()
        result = run_inside(module.main, *f"{command} {more}".removeprefix(script).split())
        seconds, error = time.perf_counter() - began, result.stderr
        assert result.returncode == 2 and error.startswith("error: ") and error.count("\n") == 1, (command, more, error)
        assert all(word in error for word in expected), (command, more, error)
        assert seconds < 1, (command, more, seconds)
    assert sorted(odd.iterdir()) == before


@pytest.mark.parametrize(
    "name", ["meta", "hpu", "cuda:99", "xla", "", "cpu:7", "cpu:-1", "abacus", "cpu\n", " cpu", "9"]
)
def test_a_device_that_cannot_compute_is_refused(name):
    with pytest.raises(UserError, match=r"(?s)^--device .*: not available here; cpu always is$"):
        pick_device(name)
    assert str(pick_device("cpu")) == "cpu" and pick_device("cpu:0").type == "cpu"


@pytest.mark.parametrize("amx", [True, False])
@pytest.mark.parametrize("avx512", [True, False])
@pytest.mark.parametrize("bfloat16_seconds", [1.0, 3.0])
def test_a_cpu_computes_in_bfloat16_only_if_asked_and_fast(monkeypatch, amx, avx512, bfloat16_seconds):
    seconds = {torch.bfloat16: bfloat16_seconds, torch.float32: 2.0}
    monkeypatch.setattr(devices, "product_seconds", lambda dtype=torch.float32: seconds[dtype])
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: avx512)
    cpu, cuda = torch.device("cpu"), torch.device("cuda")
    assert pick_dtype("fast", cpu) == (torch.bfloat16 if (amx or avx512) and bfloat16_seconds < 2 else torch.float32)
    assert pick_dtype("bfloat16", cpu) == torch.bfloat16
    assert pick_dtype(None, cpu) == torch.float32
    assert pick_dtype("fast", cuda) == pick_dtype(None, cuda) == torch.bfloat16
    assert pick_dtype("fast", torch.device("mps")) == torch.float32


def test_what_is_timed_is_the_dtype_asked_for(monkeypatch):
    monkeypatch.setattr(devices.timeit, "repeat", lambda run, **_: [run().dtype])
    assert devices.product_seconds() == torch.float32 and devices.product_seconds(torch.bfloat16) == torch.bfloat16


def test_the_largest_seed_draws_and_loads():
    most = arguments.MOST_SEED
    torch.Generator().manual_seed(most + 10_000)  # sample.py counts up from it
    streams = [data.position_rng(seed, stream, 5).random() for seed in (0, 1, 2**32, most) for stream in (0, 1)]
    assert len(set(streams)) == 8
    old = np.random.Generator(np.random.Philox(key=[7 * 2**32 + 1, 5]))  # runs of small seeds stay what they were
    assert data.position_rng(7, 1, 5).random() == old.random()
    assert phantom(most, 0, 32).image.shape == (32, 32)
