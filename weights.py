"""Checkpoints: load one, save one, and the command that looks into them or writes ours.

    python weights.py inspect PATH                what is this, and what would be read, copied, new, skipped?
    python weights.py convert SOURCE FOLDER       write our folder, for example from Janus-Pro

Our own folder holds config.json, model.safetensors, vae.safetensors, tokenizer.json, and manifest.json with a checksum
of each, which a load compares; the config travels with the weights. How published files are read, in three steps:

    checkpoints/tensors.py   .safetensors, shards with an index, or a pickle of tensors only; no code is ever unpickled
    checkpoints/layouts.py   their name -> ours, or "skip this one", or an error that names it
    checkpoints/plan.py      every tensor of theirs and of ours is accounted for, then copied one by one into place
"""

from common.errors import UserError, run  # first: what follows takes seconds, and Ctrl-C may end it

# isort: split
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer

import lora
from checkpoints import folders
from checkpoints.configs import read_ours, read_tokenizer
from checkpoints.download import HUB, download
from checkpoints.inspection import inspect
from checkpoints.layouts import translate_ours
from checkpoints.plan import filled
from checkpoints.published import load_published
from common import arguments
from common.files import read_json
from model import UniX
from vae import VAE


@dataclass
class Checkpoint:
    """Everything a command needs: the two networks, the tokenizer, and how the weights came to be."""

    model: UniX
    vae: VAE | None  # None: Janus-Pro itself, which draws no latents
    tokenizer: Tokenizer
    history: list[dict] = field(default_factory=list)  # one entry a finished training stage
    own_bos: bool = False  # keep the BOS that the tokenizer puts before a text: `--protocol unix` alone

    def encode(self, text: str) -> list[int]:
        """Text -> token ids without special tokens, but for `own_bos`; typing a token's name smuggles none in."""
        return self.tokenizer.encode(text, add_special_tokens=self.own_bos).ids

    def decode(self, ids: list[int]) -> str:
        return self.tokenizer.decode(ids).strip()


def load_checkpoint(
    folder: str | Path,
    device: str | torch.device = "cpu",
    dtype: torch.dtype = torch.float32,
    parity: bool = False,
    vae: str | Path | None = None,
) -> Checkpoint:
    """A weights folder -> model and VAE on `device`. Weights and computation are in `dtype`.

    folder: ours, that of a training run, a published UniX, or Janus-Pro. A UniX that starts from Janus-Pro gets its gen
    branch as a copy of the und branch. parity: load a Janus-Pro as Janus-Pro itself, without autoencoder, not as the
    start of a UniX; it changes nothing for other folders. vae: the kl-f16 file of a published folder; default: the one
    in its folder vae/. Raises UserError naming the file if one is missing, damaged or does not fit the config.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise UserError(f"{folder}: no such weights folder")
    checked = folders.find_checkpoint(folder)
    folder = checked or folder
    config = read_json(folder / "config.json")
    if "model" not in config:
        return Checkpoint(*load_published(folder, config, device, dtype, parity, vae))
    if vae is not None:
        raise UserError(f"--vae {vae}: {folder} is a folder of ours, which has its own autoencoder; leave --vae out")
    if not checked:
        folders.check_folder(folder)
    model_config, vae_config = read_ours(config, folder / "config.json")
    tokenizer = read_tokenizer(folder / "tokenizer.json", model_config.vocab_size)
    into = {"translate": translate_ours, "device": device, "dtype": dtype}
    model = filled(lambda: UniX(model_config, compute_dtype=dtype), folder / "model.safetensors", **into)
    autoencoder = filled(lambda: VAE(vae_config), folder / "vae.safetensors", **into)
    if (folder / folders.ADAPTER).exists():  # a run of --lora
        lora.load_adapter(model, folder)
    return Checkpoint(model, autoencoder, tokenizer, config.get("history", []))


def save_checkpoint(
    folder: str | Path,
    checkpoint: Checkpoint,
    dtype: torch.dtype = torch.float32,
    instead: dict[str, torch.Tensor] | None = None,
    more: Callable[[Path], None] = lambda folder: None,
    keep_last: bool = False,
    **belongs: object,
) -> None:
    """Write our folder; it takes the place of the one before it when it is whole (checkpoints/folders.py).

    instead: tensors of the model to write in place of those it holds (the originals of a branch kept in bfloat16).
    more: writes further files into the folder. keep_last: what was there stays as FOLDER.old.
    belongs: the run and step that the files are of.
    Raises UserError if it cannot, or if what is there holds more than a checkpoint of ours; it is then untouched.
    """
    if checkpoint.vae is None:
        raise UserError(f"{folder}: a checkpoint needs its autoencoder; name kl-f16's file with --vae")
    model, vae = checkpoint.model, checkpoint.vae
    config = {"model": asdict(model.config), "vae": asdict(vae.config), "history": checkpoint.history}
    with folders.replacing(Path(folder), keep_last) as new:
        (new / "config.json").write_text(json.dumps(config, indent=1) + "\n")
        base = {name: tensor for name, tensor in model.state_dict().items() if ".lora_" not in name}
        for name, state in {"model": base | (instead or {}), "vae": vae.state_dict()}.items():
            tensors = {key: tensor.to("cpu", dtype).contiguous() for key, tensor in state.items()}
            save_file(tensors, new / f"{name}.safetensors")
        checkpoint.tokenizer.save(str(new / "tokenizer.json"))
        if model.adapter:
            lora.save_adapter(model, new / folders.ADAPTER)
        more(new)
        folders.write_manifest(new, **belongs)


# ---- the command -------------------------------------------------------------------------------------------------


def convert(source: Path, destination: Path, dtype: torch.dtype, vae: Path | None, adapter: Path | None = None) -> None:
    """Any weights folder, with an adapter merged into it -> ours. Raises UserError, before anything is loaded, if the
    destination must stay."""
    folders.check_is_no_run(destination)
    folders.check_replaceable(destination)
    adapted = adapter or ((folders.find_checkpoint(source) or source) / folders.ADAPTER).exists()
    checkpoint = load_checkpoint(source, dtype=torch.float32 if adapted else dtype, vae=vae)
    if adapter:
        lora.load_adapter(checkpoint.model, adapter)
    if checkpoint.model.adapter:
        lora.merge(checkpoint.model)
    save_checkpoint(destination, checkpoint, dtype)
    size = sum(file.stat().st_size for file in destination.iterdir())
    print(f"{destination}: {size / 1e6:,.1f} MB")


def main() -> None:
    parser = arguments.Parser(
        description="Look into a checkpoint, or rewrite one as our folder.",
        epilog="examples: python weights.py inspect assets/tiny; python weights.py convert weights/Janus-Pro-1B"
        " weights/start --vae weights/vae/kl-f16d16.ckpt",
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    add = commands.add_parser("inspect", help="say what a file or folder is and what loading it would do").add_argument
    add("path", type=arguments.existing, help="a .safetensors, .bin, .ckpt, .pt or index file, or a folder")
    add = commands.add_parser("convert", help="write our folder: from ours, a UniX, or Janus-Pro").add_argument
    add("source", type=arguments.weights_folder, help="a weights folder")
    add("destination", type=arguments.output_folder, help="the folder to write; replaced if it is there")
    dtypes = ("float32", "bfloat16", "float16")
    add("--dtype", choices=dtypes, default="bfloat16", help="of the new file (default bfloat16)")
    add("--vae", type=arguments.existing_file, help="kl-f16's file; default: the one in SOURCE/vae")
    add = commands.add_parser("merge", help="weights and an adapter of them: one folder of ours").add_argument
    add("source", type=arguments.weights_folder, help="a weights folder")
    add("adapter", type=arguments.existing, help="an adapter of train.py --lora, or the folder of its run")
    add("destination", type=arguments.output_folder, help="the folder to write; replaced if it is there")
    add("--dtype", choices=dtypes, default="float32", help="of the new file (default float32, which is exact)")
    add = commands.add_parser("download", help="published weights by name, from the Hub").add_argument
    add("name", choices=HUB)
    add("folder", nargs="?", type=arguments.output_folder, help="default: weights/NAME")
    args = parser.parse_args()
    if args.command == "inspect":
        inspect(args.path)
    elif args.command == "download":
        download(args.name, args.folder or Path("weights", args.name))
    elif args.command == "merge":
        convert(args.source, args.destination, getattr(torch, args.dtype), None, args.adapter)
    else:
        convert(args.source, args.destination, getattr(torch, args.dtype), args.vae)


if __name__ == "__main__":
    run(main)
