"""Checkpoints as a command and an import: load, save, look into, convert. Ours, and the published ones.

    python weights.py inspect PATH                what is this, and what would be read, copied, new, skipped?
    python weights.py convert SOURCE FOLDER       write our folder, for example from Janus-Pro

Our own folder holds config.json, model.safetensors, vae.safetensors, tokenizer.json, and manifest.json with a checksum
of each, which a load compares (checkpoints/manifest.py); the config travels with the weights. A checkpoint is a bag of
named tensors, and loading one takes three steps, each a file of checkpoints/:

    tensors.py   .safetensors, shards with an index, or a pickle of tensors only; no code is ever unpickled
    layouts.py   their name -> ours, or "skip this one", or an error that names it
    plan.py      every tensor of theirs and of ours is accounted for, then copied one by one into place
"""

from __future__ import annotations

import contextlib
import glob
import json
import os
import secrets
import shutil
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer
from torch import nn

from checkpoints import layouts
from checkpoints.configs import (
    check_depth,
    check_latents,
    check_tokenizer,
    check_unix,
    check_vit,
    depth,
    our_shapes,
    read_ours,
    read_tokenizer,
    section,
    set_special_ids,
    unix_config,
    vae_config,
    vit_config,
)
from checkpoints.folders import find_checkpoint, flush_to_disk, read_json
from checkpoints.janus import JanusPro, janus_chat
from checkpoints.layouts import (
    BERT,
    DINOV2,
    HF_JANUS,
    JANUS,
    KL_VAE,
    OURS,
    PUBLISHED,
    SIGLIP,
    Layout,
    translate_ours,
    translate_vae,
)
from checkpoints.manifest import FILES, MANIFEST, Mark, check_folder, write_manifest
from checkpoints.plan import Plan, absent_in_janus, empty, load_tensors, make_plan, start_from_janus, translate_names
from checkpoints.tensors import PICKLES, PUBLISHED_FILES, Tensors, listed, recognise
from common import arguments
from common.errors import UserError, run
from model import UniX
from vae import VAE
from vit import VisionTransformer, ViTConfig

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


# ---- checkpoints: what the commands use --------------------------------------------------------------------------


@dataclass
class Checkpoint:
    """Everything a command needs: the two networks, the tokenizer, and how the weights came to be."""

    model: UniX
    vae: VAE | None  # None: Janus-Pro itself, which draws no latents
    tokenizer: Tokenizer
    history: list[dict] = field(default_factory=list)  # one entry a finished training stage

    def encode(self, text: str) -> list[int]:
        """Text -> token ids without special tokens (none can be smuggled in by typing its name)."""
        return self.tokenizer.encode(text, add_special_tokens=False).ids

    def decode(self, ids: list[int]) -> str:
        return self.tokenizer.decode(ids).strip()


def load_checkpoint(
    folder: str | Path,
    device: str | torch.device = "cpu",
    dtype: torch.dtype = torch.float32,
    parity: bool = False,
    vae: str | Path | None = None,
    verify: bool = True,
) -> Checkpoint:
    """A weights folder -> model and VAE on `device`. Weights and computation are in `dtype`.

    folder: ours, that of a training run, a published UniX, or Janus-Pro. A UniX that starts from Janus-Pro gets its gen
    branch as a copy of the und branch. parity: load a Janus-Pro as Janus-Pro itself, without autoencoder, not as the
    start of a UniX; it changes nothing for other folders. vae: the kl-f16 file of a published folder; default: the one
    in its folder vae/. verify: compare the files of a folder of ours with the checksums of its manifest.json, if any.
    Raises UserError naming the file if one is missing, damaged or does not fit the config.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise UserError(f"{folder}: no such weights folder")
    folder = find_checkpoint(folder, verify) or folder
    if not (folder / "config.json").is_file():
        raise UserError(f"{folder / 'config.json'}: missing; is this a weights folder?")
    config = read_json(folder / "config.json")
    if "model" not in config:
        return load_published(folder, config, device, dtype, parity, vae)
    check_folder(folder, verify)
    if vae is not None:
        raise UserError(f"--vae {vae}: {folder} is a folder of ours, which has its own autoencoder; leave --vae out")
    model_config, vae_config = read_ours(config, folder / "config.json")
    tokenizer = read_tokenizer(folder / "tokenizer.json")
    check_tokenizer(tokenizer, folder / "tokenizer.json", model_config.vocab_size)
    model = filled(lambda: UniX(model_config, compute_dtype=dtype), device, dtype, folder / "model.safetensors")
    autoencoder = filled(lambda: VAE(vae_config), device, dtype, folder / "vae.safetensors")
    return Checkpoint(model.eval(), autoencoder.eval(), tokenizer, config.get("history", []))


def filled(
    build: Callable[[], nn.Module], device: str | torch.device, dtype: torch.dtype, file: Path | Tensors
) -> nn.Module:
    """The module that `build` makes, with a file of our names in it. Both are compared before memory is taken."""
    tensors = file if isinstance(file, Tensors) else Tensors(file)
    module = empty(build, device, dtype, lambda targets: make_plan(targets, tensors, translate_ours))
    load_tensors(module, tensors, translate_ours)
    return module


def load_published(
    folder: Path, given: dict, device: str | torch.device, dtype: torch.dtype, parity: bool, vae: str | Path | None
) -> Checkpoint:
    """Published UniX, or Janus-Pro in either layout; `given` is the folder's config.json."""
    tensors = Tensors(folder)
    layout = recognise(tensors)
    if layout not in (PUBLISHED, JANUS, HF_JANUS):
        raise UserError(f"{tensors.path}: holds {layout.holds}; a weights folder needs a UniX or a Janus-Pro")
    janus = layout is not PUBLISHED
    parity = parity and janus
    config = unix_config(tensors, layout, given, parity)
    tokenizer = read_tokenizer(folder / "tokenizer.json")
    check_tokenizer(tokenizer, folder / "tokenizer.json", config.vocab_size)
    if janus:  # the published UniX was trained with bare numbers, whatever stands at them
        set_special_ids(config, tokenizer, folder / "tokenizer.json")
    check_unix(config, folder / "config.json")
    autoencoder = None if parity else load_vae(vae or find_vae(folder), device, dtype)
    if autoencoder:
        check_latents(config, autoencoder.config, folder)
    model = empty(lambda: (JanusPro if parity else UniX)(config, compute_dtype=dtype), device, dtype)
    if parity:
        model.before, _ = janus_chat(tokenizer, config, "")
    if janus:
        plan = start_from_janus(model, tensors, layout.translate, given)
    else:
        plan = load_tensors(model, tensors, layout.translate)
    counts = ", ".join(f"{what} {count}" for what, count in plan.counts().items())
    print(f"{folder}: {layout.holds}: {counts}")
    return Checkpoint(model.eval(), autoencoder, tokenizer)


def load_vit(folder: str | Path, device: str | torch.device = "cpu") -> VisionTransformer:
    """SigLIP's vision model or a DINOv2, as `transformers` saves them -> the one ViT of this project, float32."""
    tensors = Tensors(folder)
    layout = recognise(tensors)
    if layout not in (SIGLIP, DINOV2):
        raise UserError(f"{tensors.path}: holds {layout.holds}; a SigLIP or a RadDino is wanted")
    path = tensors.path.parent / "config.json"
    given = read_json(path)
    given = section(given, path, "vision_config") or given  # a whole SigLIP describes its text model as well
    if not given:
        raise UserError(f"{path}: missing; it tells the number of heads")
    try:
        config = vit_config(our_shapes(tensors, layout.translate), given, path)
    except (KeyError, ValueError, IndexError) as error:
        raise UserError(f"{tensors.path}: no whole {layout.holds} in it (nothing for {error})") from error
    check_depth(config.layers, given, "ViT", tensors, path)
    preprocessing = read_json(path.with_name("preprocessor_config.json"))
    default = (0.5307, 0.2583) if layout is DINOV2 else (0.5, 0.5)  # grey values, RadDino's and SigLIP's
    try:
        config.mean = float(np.mean(preprocessing.get("image_mean", default[0])))
        config.std = float(np.mean(preprocessing.get("image_std", default[1])))
    except (TypeError, ValueError) as error:
        raise UserError(f"{path.with_name('preprocessor_config.json')}: image_mean or image_std: {error}") from error
    check_vit(config, path)
    vit = empty(lambda: VisionTransformer(config), device, torch.float32)
    load_tensors(vit, tensors, layout.translate)
    return vit.eval().requires_grad_(False)


def find_vae(folder: Path) -> Path:
    """The one autoencoder in the folder's vae/. Raises UserError if there is none, or more than one."""
    found = [file for file in sorted((folder / "vae").glob("*")) if file.suffix in (".safetensors", *PICKLES)]
    if len(found) != 1:
        raise UserError(
            f"{folder / 'vae'}: {len(found)} autoencoder files in it, one is needed; put kl-f16's .ckpt or .safetensors"
            " there, or name it with python weights.py convert SOURCE FOLDER --vae FILE"
        )
    return found[0]


def load_vae(path: str | Path, device: str | torch.device = "cpu", dtype: torch.dtype = torch.float32) -> VAE:
    """kl-f16 from .safetensors or .ckpt. Raises UserError for any other file."""
    tensors = Tensors(path)
    vae = empty(lambda: VAE(vae_config(tensors)), device, dtype)
    load_tensors(vae, tensors, translate_vae)
    return vae.eval()


def save_checkpoint(
    folder: str | Path,
    checkpoint: Checkpoint,
    dtype: torch.dtype = torch.float32,
    instead: dict[str, torch.Tensor] | None = None,
    more: Callable[[Path], None] = lambda folder: None,
    keep_last: bool = False,
    mark: Mark | None = None,
) -> None:
    """Write our folder: all of it beside FOLDER, manifest.json last, to the disk, then renamed over what was there.

    instead: tensors of the model to write in place of those it holds (the originals of a branch kept in bfloat16).
    more: writes further files into the folder. keep_last: what was there stays as FOLDER.old.
    mark: the run and step that the files belong to.
    Raises UserError if it cannot, or if what is there holds more than a checkpoint of ours; it is then untouched.
    """
    folder = Path(folder)
    if checkpoint.vae is None:
        raise UserError(f"{folder}: a checkpoint needs its autoencoder; name kl-f16's file with --vae")
    check_replaceable(folder)
    old, older = (folder.with_name(folder.name + end) for end in (".old", ".older"))
    if not keep_last:  # a name that nobody else has: a neighbour called FOLDER.old may be the user's
        old = folder.with_name(f".{folder.name}.{secrets.token_hex(4)}.old")
    for left in folder.parent.glob(f".{glob.escape(folder.name)}.*.tmp"):  # by a save that was killed
        # A run's lock tells that nobody else saves here. Elsewhere an hour does, in which nothing was written.
        with contextlib.suppress(FileNotFoundError):  # it was another save's, which has just ended
            if keep_last or left.stat().st_mtime < time.time() - 3600:
                shutil.rmtree(left, ignore_errors=True)
    temporary = folder.with_name(f".{folder.name}.{secrets.token_hex(4)}.tmp")
    config = {
        "model": asdict(checkpoint.model.config),
        "vae": asdict(checkpoint.vae.config),
        "history": checkpoint.history,
    }
    try:
        temporary.mkdir(parents=True)
        (temporary / "config.json").write_text(json.dumps(config, indent=1) + "\n")
        for module, file in ((checkpoint.model, "model.safetensors"), (checkpoint.vae, "vae.safetensors")):
            state = module.state_dict() | ((instead or {}) if module is checkpoint.model else {})
            tensors = {name: tensor.to("cpu", dtype).contiguous() for name, tensor in state.items()}
            save_file(tensors, temporary / file, mark and mark.metadata())
        checkpoint.tokenizer.save(str(temporary / "tokenizer.json"))
        more(temporary)
        write_manifest(temporary, mark)
        for file in temporary.iterdir():
            flush_to_disk(file)
        # What a kill between two of these leaves is found (`PLACES`), even if the newest was damaged.
        if folder.exists():
            if old.exists():
                shutil.rmtree(older, ignore_errors=True)
                os.rename(old, older)
            os.rename(folder, old)
        os.rename(temporary, folder)
        if keep_last:
            shutil.rmtree(older, ignore_errors=True)
        else:
            shutil.rmtree(old, ignore_errors=True)
    except Exception as error:  # safetensors and tokenizers raise their own kinds, besides OSError
        shutil.rmtree(temporary, ignore_errors=True)
        raise UserError(f"{folder}: the checkpoint could not be written ({error}); is the disk full?") from error


# All that a checkpoint of ours may hold. A folder with anything else in it is somebody's.
OUR_FILES = {*FILES, MANIFEST, "training.json", "training.safetensors"}


def check_replaceable(folder: Path) -> None:
    """Raises UserError unless a checkpoint may take the place of `folder`: it is absent, empty, or one of ours."""
    if not os.path.lexists(folder):
        return
    if not folder.is_dir():
        raise UserError(f"{folder}: is a file; name a new folder")
    held = {path.name for path in folder.iterdir()}
    if held and (not set(FILES) <= held or "model" not in read_json(folder / "config.json")):
        raise UserError(f"{folder}: holds {listed(sorted(held))} and is no checkpoint of ours; name a new folder")
    if extra := sorted(held - OUR_FILES):
        raise UserError(f"{folder}: holds {listed(extra)} beside a checkpoint; move that, or name a new folder")


# ---- the command -------------------------------------------------------------------------------------------------


def inspect(path: Path, verify: bool = True) -> None:
    """Print what a file, or each file of a folder, is and what loading it would do. Nothing is loaded."""
    path = find_checkpoint(path, verify) or path
    if all((path / name).is_file() for name in FILES):
        print(f"{path}\n  {manifest_words(path, verify)}")
    files = [path]
    if path.is_dir():
        files = [path / name for name in PUBLISHED_FILES if (path / name).is_file()][:1]
        rest = [path / "vae.safetensors", *sorted((path / "vae").glob("*")), *sorted(path.glob("*.p*t*"))]
        files += [file for file in rest if file.is_file() and file.suffix in (".safetensors", *PICKLES)]
        files = list(dict.fromkeys(files))
        if not files:
            raise UserError(f"{path}: no weights in it; name a file or a weights folder")
    for file in files:
        tensors = Tensors(file)
        layout = layouts.recognise(tensors.shapes)
        print(f"{file}\n  layout   {layout.holds if layout else 'none we know; its tensors:'}")
        parameters = sum(torch.Size(shape).numel() for shape in tensors.shapes.values())
        kinds = ", ".join(sorted(set(tensors.dtypes.values())))
        print(f"  tensors  {len(tensors.shapes)}, {parameters:,} numbers, {kinds}, {len(tensors.files)} file(s)")
        if layout is None:
            for name, shape in list(tensors.shapes.items())[:20]:
                print(f"  {name} {list(shape)}")
            continue
        sizes, plan = describe(tensors, layout, read_json(file.parent / "config.json"))
        print("".join(f"  {part:8} {text}\n" for part, text in sizes.items()), end="")
        print("  loading  " + ", ".join(f"{what} {count}" for what, count in plan.counts().items()))
        for what, names in (("copied", plan.copied), ("new", plan.new), ("skipped", plan.skipped)):
            if names:
                print(f"  {what:8} {listed(sorted(names))}")
        print(f"  use      {layout.use.format(folder=file.parent)}")


def manifest_words(folder: Path, verify: bool) -> str:
    """What the manifest of a folder of ours says about its files."""
    try:
        manifest = check_folder(folder, verify)
    except UserError as error:
        return f"DAMAGED  {error}"
    if not manifest:
        return "manifest none: nothing to compare the files with"
    run = f"; {Mark(manifest['run'], manifest.get('step'))}" if "run" in manifest else ""
    return f"manifest ok: {len(manifest['files'])} files {'as they were saved' if verify else 'of the saved size'}{run}"


def describe(tensors: Tensors, layout: Layout, given: dict) -> tuple[dict[str, str], Plan]:
    """(part -> its sizes in words, what loading would do)."""

    def vit_words(vit: ViTConfig) -> str:
        return (
            f"{vit.layers} layers, width {vit.width}, MLP {vit.mlp_width}, patch {vit.patch_size}, {vit.image_size} px"
        )

    if layout in (OURS, PUBLISHED, JANUS, HF_JANUS):
        ours = layout is OURS and "model" in given
        path = tensors.path.parent / "config.json"
        config = read_ours(given, path)[0] if ours else unix_config(tensors, layout, given)
        llm = f"{config.num_layers} layers, width {config.hidden_size}, MLP {config.intermediate_size}"
        sizes = {"LLM": f"{llm}, vocabulary {config.vocab_size:,}", "ViT": vit_words(config.vit)}
        with torch.device("meta"):
            targets = UniX(config).state_dict()
        if layout in (JANUS, HF_JANUS):
            return sizes, make_plan(targets, tensors, layout.translate, lambda name: absent_in_janus(name, given))
        return sizes, make_plan(targets, tensors, layout.translate)
    if layout is KL_VAE:
        config = vae_config(tensors)
        if "vae" in given:
            config.norm_groups = read_ours(given, tensors.path.parent / "config.json")[1].norm_groups
        with torch.device("meta"):
            targets = VAE(config).state_dict()
        words = f"ch {config.ch}, multipliers {config.ch_mult}, {config.num_res_blocks} blocks, z {config.z_channels}"
        return {"VAE": words}, make_plan(targets, tensors, translate_vae)
    shapes = our_shapes(tensors, layout.translate)
    places, skipped, unknown = translate_names(tensors, layout.translate)
    plan = Plan(places, skipped)
    if unknown:
        raise UserError(f"{tensors.path}: {len(unknown)} tensors unknown ({listed(unknown)})")
    if layout in (SIGLIP, DINOV2):
        path = tensors.path.parent / "config.json"
        return {"ViT": vit_words(vit_config(shapes, section(given, path, "vision_config") or given, path))}, plan
    prefix = "" if layout is BERT else "bert."
    if prefix + "word.weight" in shapes:
        vocab_size, width = shapes[prefix + "word.weight"]
        return {"BERT": f"{depth(shapes, prefix + 'blocks.')} layers, width {width}, vocabulary {vocab_size:,}"}, plan
    return {}, plan


def add_no_verify(parser: arguments.Parser) -> None:
    parser.add_argument(
        "--no-verify", dest="verify", action="store_false", help="do not compare files with manifest.json's checksums"
    )


def main() -> None:
    parser = arguments.Parser(
        description="Look into a checkpoint, or rewrite one as our folder.",
        epilog="examples: python weights.py inspect assets/tiny; python weights.py convert weights/Janus-Pro-1B"
        " weights/start --vae weights/vae/kl-f16d16.ckpt",
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    command = commands.add_parser("inspect", help="say what a file or folder is and what loading it would do")
    path = "a .safetensors, .bin, .ckpt, .pt or index file, or a folder"
    command.add_argument("path", type=arguments.existing, help=path)
    add_no_verify(command)
    command = commands.add_parser("convert", help="write our folder: from ours, a published UniX, or Janus-Pro")
    command.add_argument("source", type=arguments.weights_folder, help="a weights folder")
    destination = "the folder to write; replaced if it is there"
    command.add_argument("destination", type=arguments.output_folder, help=destination)
    command.add_argument("--dtype", choices=DTYPES, default="bfloat16", help="of the new file (default bfloat16)")
    vae = "kl-f16's file; default: the one in SOURCE/vae"
    command.add_argument("--vae", type=arguments.existing_file, help=vae)
    add_no_verify(command)
    args = parser.parse_args()
    if args.command == "inspect":
        inspect(args.path, args.verify)
        return
    check_replaceable(args.destination)
    checkpoint = load_checkpoint(args.source, dtype=DTYPES[args.dtype], vae=args.vae, verify=args.verify)
    save_checkpoint(args.destination, checkpoint, DTYPES[args.dtype])
    size = sum(file.stat().st_size for file in args.destination.iterdir())
    print(f"{args.destination}: {size / 1e6:,.1f} MB")


if __name__ == "__main__":
    run(main)
