"""Files of named tensors: .safetensors, shards with an index, and pickles of tensors only.

Names and shapes are read at once, values when they are asked for. No code is ever unpickled.
"""

import functools
import os
import re
import sys
import warnings
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from checkpoints import layouts
from checkpoints.layouts import Layout
from common.errors import UserError
from common.files import read_json

# How a published folder calls its weights, the preferred first.
PUBLISHED_FILES = [name + end for name in ("model.safetensors", "pytorch_model.bin") for end in ("", ".index.json")]
PICKLES = (".bin", ".ckpt", ".pt", ".pth")
# Kinds that hold a weight as it is: safetensors' names and torch's.
COPIED = {"F64", "F32", "F16", "BF16", "float64", "float32", "float16", "bfloat16"}

# kl-f16's file names the callback class that saved it. An empty class stands for it, so that nothing of it can run.
KNOWN_BYSTANDERS = [(type("Inert", (), {}), "pytorch_lightning.callbacks.model_checkpoint.ModelCheckpoint")]


class Tensors:
    """The named tensors of a checkpoint. path: a .safetensors file, a pickle of tensors, an index of shards
    (*.index.json), or a folder that holds one of these under a usual name.

    Raises UserError naming the file that is missing, broken, or would run code, and the tensor that two shards hold.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        if self.path.is_dir():
            found = [self.path / name for name in PUBLISHED_FILES if (self.path / name).is_file()]
            if not found:
                raise UserError(f"{self.path}: no weights in it (looked for {', '.join(PUBLISHED_FILES)})")
            self.path = found[0]
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.dtypes: dict[str, str] = {}
        self.files: dict[Path, list[str]] = {}  # the names as they stand there, their prefix among them
        for file in read_index(self.path) if self.path.name.endswith(".index.json") else [self.path]:
            if file.suffix in PICKLES:
                tensors = read_pickle(file)
                shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
                kinds = {n: t.dtype if t.layout is torch.strided else t.layout for n, t in tensors.items()}
                dtypes = {name: str(kind).removeprefix("torch.") for name, kind in kinds.items()}
            else:
                mapped = open_safetensors(file)
                slices = {name: mapped.get_slice(name) for name in mapped.keys()}  # noqa: SIM118 (not a dict)
                shapes = {name: tuple(part.get_shape()) for name, part in slices.items()}
                dtypes = {name: part.get_dtype() for name, part in slices.items()}
            if twice := [name for name in shapes if name in self.shapes]:
                raise UserError(f"{file}: another shard holds {listed(twice)} too; keep the shards of one model only")
            self.shapes |= shapes
            self.dtypes |= dtypes
            self.files[file] = list(shapes)
        self.prefix = wrapping(self.shapes)
        if cut := len(self.prefix):
            self.shapes, self.dtypes = ({n[cut:]: each[n] for n in each} for each in (self.shapes, self.dtypes))
            if layouts.recognise(self.shapes) is not layouts.CHEXBERT:  # it is published so
                by = "put there by what wrapped the model"
                warn(f"{self.path}: every name begins with {self.prefix}, {by}; it is left out")

    def read(self, names: Iterable[str]) -> Iterator[tuple[str, torch.Tensor]]:
        """(name, tensor) of each name, file by file, mapped where the format allows: only what is used is read."""
        wanted = {self.prefix + name for name in names}
        for file, held in self.files.items():
            get = read_pickle(file).__getitem__ if file.suffix in PICKLES else open_safetensors(file).get_tensor
            for name in held:
                if name in wanted:
                    yield name.removeprefix(self.prefix), get(name)


def wrapping(names: Iterable[str]) -> str:
    """What DDP, FSDP, torch.compile or Lightning have put before every name; "" if nothing, or not before all."""
    layout = layouts.recognise(names)
    # What stands before a name that the layout knows; Janus-Pro's own names in `transformers` begin with `model.`
    lead = next((n.removesuffix(layout.marks[0]) for n in names if n.endswith(layout.marks[0])), "") if layout else ""
    prefix = re.match(r"((module|_orig_mod|model)\.)*", lead)[0]
    while not all(name.startswith(prefix) for name in names):
        prefix = re.sub(r"\w+\.$", "", prefix)
    return prefix


def open_safetensors(file: Path) -> safe_open:
    """The file, mapped."""
    try:
        return safe_open(file, framework="pt")
    except (SafetensorError, OSError) as error:
        raise UserError(f"{file}: not a whole safetensors file ({error}); fetch or make it again") from error


def read_index(path: Path) -> list[Path]:
    """The shards that an index names. A shard lies beside its index, nowhere else."""
    try:
        names = sorted(set(read_json(path)["weight_map"].values()))
        outside = [file for file in names if not re.fullmatch(r"[^/\\\0]+", file) or file == ".."]
    except (KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path}: not an index of shards ({error})") from error
    if outside:
        raise UserError(f"{path}: names {listed(outside)}, which is no file beside it; is the index to be trusted?")
    if absent := [file for file in names if not (path.parent / file).is_file()]:
        raise UserError(f"{path}: names {listed(absent)}, which is not there; fetch it into the same folder")
    return [path.parent / file for file in names]


def read_pickle(path: Path) -> dict[str, torch.Tensor]:
    """The tensors of a torch.save file, mapped where the format allows. Anything that could run code is refused."""
    try:
        with torch.serialization.safe_globals(KNOWN_BYSTANDERS), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's own words about what is refused below
            # What torch before 1.6 saved is no zip archive and cannot be mapped.
            content = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except Exception as error:  # what is damaged raises whatever it meets
        if names := re.findall(r"(?:GLOBAL|[Uu]nsupported (?:global|class):?) ([\w.]+\.\w+)", str(error)):
            mend = "get the .safetensors version, or write one where you trust the file"
            words = f"holds more than tensors ({names[0]}), and unpickling that could run any code"
            raise UserError(f"{path}: {words}; {mend}") from error
        raise UserError(f"{path}: not a whole pickle of tensors; fetch it again") from error
    for wrapper in ("state_dict", "model_state_dict", "model"):
        if isinstance(content, dict) and isinstance(content.get(wrapper), dict):
            content = content[wrapper]
    named = content.items() if isinstance(content, dict) else ()
    tensors = {name: each for name, each in named if isinstance(name, str) and isinstance(each, torch.Tensor)}
    if not tensors:
        raise UserError(f"{path}: no named tensors in it; is it the right file?")
    return tensors


def recognise(tensors: Tensors) -> Layout:
    """Raises UserError for a file of no layout we know."""
    if layout := layouts.recognise(tensors.shapes):
        return layout
    raise UserError(f"{tensors.path}: no layout we know (its tensors: {listed(sorted(tensors.shapes))})")


@functools.cache  # one line, however often and by however many processes a file is read
def warn(text: str) -> None:
    if os.environ.get("RANK", "0") == "0":
        print(f"warning: {text}", file=sys.stderr, flush=True)


def listed(names: list[str]) -> str:
    """The first three names, for a message."""
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
