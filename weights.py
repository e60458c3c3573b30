"""Checkpoints: ours, and the published ones. Strict, streamed, and no code is ever unpickled.

A checkpoint is a bag of named tensors. Loading one takes four steps, each a part of this file:

    1. files      .safetensors, shards with an index, or a pickle of tensors only       Tensors
    2. names      their name -> ours, or "skip this one", or never heard of it          layouts.py
    3. plan       every tensor of theirs and of ours is accounted for, or it is refused  make_plan
    4. copy       from the mapped file straight into place, in the target's dtype       load_tensors

Nothing is loaded by halves: the plan is complete before the first tensor moves. Our own folder holds config.json,
model.safetensors, vae.safetensors and tokenizer.json; the config travels with the weights.

    python weights.py inspect PATH                what is this, and what would be read, copied, new, skipped?
    python weights.py convert SOURCE FOLDER       write our folder, for example from Janus-Pro
"""

from __future__ import annotations

import argparse
import json
import os
import pickle
import re
import shutil
import zipfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from tokenizers import Tokenizer
from torch import nn

import layouts
from errors import UserError, run
from layouts import (
    BERT,
    DINOV2,
    HF_JANUS,
    JANUS,
    KL_VAE,
    OURS,
    PUBLISHED,
    SIGLIP,
    Layout,
    Place,
    Translate,
    translate_ours,
    translate_vae,
)
from model import UniX, UniXConfig
from vae import VAE, VAEConfig
from vit import ViTConfig

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
CHECKPOINT = "checkpoint"  # inside the folder of a training run; the one before it is CHECKPOINT.old


# ---- 1. files ----------------------------------------------------------------------------------------------------

PUBLISHED_FILES = (  # how a published folder calls its weights, the preferred first
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
PICKLES = (".bin", ".ckpt", ".pt", ".pth")
MAPPED_BYTES = 512 * 2**20  # a mapped file's pages count as memory until it is closed


class Inert:
    """Stands in for a class that a pickle names but whose code shall not run."""


# kl-f16's file names the callback that saved it. Known names may pass if nothing but this stands behind them.
KNOWN_BYSTANDERS = [(Inert, "pytorch_lightning.callbacks.model_checkpoint.ModelCheckpoint")]


class Tensors:
    """The named tensors of a checkpoint, whatever it is stored in. Names and shapes at once, values when asked for.

    path: a .safetensors file, a pickle of tensors, an index of shards (*.index.json), or a folder that holds one of
    these under a usual name. Raises UserError naming the file that is missing, broken, or would run code.
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
        self.files: dict[Path, list[str]] = {}
        self._unmappable: dict[Path, dict[str, torch.Tensor]] = {}
        for file in read_index(self.path) if self.path.name.endswith(".index.json") else [self.path]:
            self._open(file)

    def _open(self, file: Path) -> None:
        if file.suffix in PICKLES:
            tensors = read_pickle(file)
            if not zipfile.is_zipfile(file):
                self._unmappable[file] = tensors
            shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
            dtypes = {name: str(tensor.dtype).removeprefix("torch.") for name, tensor in tensors.items()}
        else:
            mapped = open_safetensors(file)
            slices = {name: mapped.get_slice(name) for name in mapped.keys()}  # noqa: SIM118 (not a dict)
            shapes = {name: tuple(part.get_shape()) for name, part in slices.items()}
            dtypes = {name: part.get_dtype() for name, part in slices.items()}
        self.shapes |= shapes
        self.dtypes |= dtypes
        self.files[file] = list(shapes)

    def _map(self, file: Path) -> Callable[[str], torch.Tensor]:
        """The file, mapped for as long as the returned function lives."""
        if file in self._unmappable:
            return self._unmappable[file].__getitem__
        return read_pickle(file).__getitem__ if file.suffix in PICKLES else open_safetensors(file).get_tensor

    def read(self, names: Iterable[str]) -> Iterator[tuple[str, torch.Tensor]]:
        """(name, tensor) of each name, file by file; use a tensor before asking for the next."""
        wanted = set(names)
        for file, held in self.files.items():
            taken, get = 0, self._map(file)
            for name in held:
                if name not in wanted:
                    continue
                if taken > MAPPED_BYTES:
                    get = tensor = None  # lets go of the pages read so far
                    taken, get = 0, self._map(file)
                tensor = get(name)
                taken += tensor.nbytes
                yield name, tensor


def open_safetensors(file: Path) -> safe_open:
    try:
        return safe_open(file, framework="pt")
    except FileNotFoundError as error:
        raise UserError(f"{file}: no such file") from error
    except (SafetensorError, OSError) as error:
        raise UserError(f"{file}: not a whole safetensors file ({error}); fetch or make it again") from error


def read_index(path: Path) -> list[Path]:
    """The shards that an index names, each once."""
    try:
        shards = [path.parent / name for name in dict.fromkeys(json.loads(path.read_text())["weight_map"].values())]
    except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
        raise UserError(f"{path}: not an index of shards ({error})") from error
    if absent := [shard.name for shard in shards if not shard.is_file()]:
        raise UserError(f"{path}: names {_listed(absent)}, which is not there; fetch it into the same folder")
    return shards


def read_pickle(path: Path) -> dict[str, torch.Tensor]:
    """The tensors of a torch.save file, mapped where the format allows. Anything that could run code is refused."""
    try:
        with torch.serialization.safe_globals(KNOWN_BYSTANDERS):
            # What torch before 1.6 saved is no zip archive and cannot be mapped.
            content = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such file") from error
    except pickle.UnpicklingError as error:
        if names := re.findall(r"(?:GLOBAL|[Uu]nsupported (?:global|class):?) ([\w.]+\.\w+)", str(error)):
            raise UserError(
                f"{path}: holds more than tensors ({names[0]}), and unpickling that could run any code;"
                " get the .safetensors version, or write one where you trust the file"
            ) from error
        raise UserError(f"{path}: not a whole pickle of tensors; fetch it again") from error
    except (OSError, RuntimeError, EOFError, ValueError, KeyError, IndexError, TypeError, AttributeError) as error:
        raise UserError(f"{path}: not a whole pickle of tensors; fetch it again") from error
    for wrapper in ("state_dict", "model_state_dict"):
        if isinstance(content, dict) and isinstance(content.get(wrapper), dict):
            content = content[wrapper]
    tensors = {k: v for k, v in content.items() if isinstance(v, torch.Tensor)} if isinstance(content, dict) else {}
    if not tensors:
        raise UserError(f"{path}: no named tensors in it; is it the right file?")
    return tensors


# ---- 2. names: layouts.py -----------------------------------------------------------------------------------------


def recognise(tensors: Tensors) -> Layout:
    """Raises UserError for a file of no layout we know."""
    if layout := layouts.recognise(tensors.shapes):
        return layout
    raise UserError(f"{tensors.path}: no layout we know (its tensors: {_listed(sorted(tensors.shapes))})")


# ---- 3. plan -----------------------------------------------------------------------------------------------------


@dataclass
class Plan:
    """What becomes of every tensor: theirs are read or skipped; of ours the file lacks, some copied and some new."""

    reads: dict[str, Place] = field(default_factory=dict)  # their name -> where it goes
    skipped: list[str] = field(default_factory=list)
    copied: list[str] = field(default_factory=list)  # our names, from here on
    new: list[str] = field(default_factory=list)

    def counts(self) -> dict[str, int]:
        numbers = {"read": self.reads, "copied": self.copied, "new": self.new, "skipped": self.skipped}
        return {what: len(names) for what, names in numbers.items()}


def translate_names(tensors: Tensors, translate: Translate) -> tuple[dict[str, Place], list[str], list[str]]:
    """Their names -> (places, those to skip, those never heard of)."""
    places, skipped, unknown = {}, [], []
    for name in tensors.shapes:
        try:
            place = translate(name)
        except KeyError:
            unknown.append(name)
            continue
        if place is None:
            skipped.append(name)
        else:
            places[name] = place
    return places, skipped, unknown


def make_plan(
    targets: dict[str, torch.Tensor],
    tensors: Tensors,
    translate: Translate,
    absent: Callable[[str], str | None] = lambda name: None,
) -> Plan:
    """targets: our names and tensors (on the meta device will do). absent: "copied" or "new" for a tensor of ours that
    this layout does not have and that is made by a rule, None for one that must be there.

    Raises UserError naming the file and the first tensors that are missing, unknown or of a wrong shape.
    """
    places, skipped, unknown = translate_names(tensors, translate)
    plan, filled = Plan(skipped=skipped), {}  # filled: our name -> the parts of it that are still to come
    misshapen, twice = [], []
    for name, place in places.items():
        ours, part, parts = place
        shape = tensors.shapes[name]
        if ours not in targets:
            unknown.append(name)
            continue
        expected = [*targets[ours].shape]
        if parts > 1:
            expected[0] //= parts
        if without_leading_ones(shape) != without_leading_ones(expected):
            misshapen.append(f"{name} {list(shape)}, expected {expected}")
        remaining = filled.setdefault(ours, set(range(parts)))
        if part not in remaining:
            twice.append(name)
        remaining.discard(part)
        plan.reads[name] = place
    missing = [ours for ours, remaining in filled.items() if remaining]  # half a matrix is none
    for ours in targets.keys() - filled.keys():
        {"copied": plan.copied, "new": plan.new, None: missing}[absent(ours)].append(ours)
    problems = [
        f"{len(names)} tensors {what} ({_listed(sorted(names))})"
        for what, names in (
            ("missing", missing),
            ("unknown", unknown),
            ("of a wrong shape", misshapen),
            ("given twice", twice),
        )
        if names
    ]
    if problems:
        raise UserError(f"{tensors.path}: " + "; ".join(problems) + "; is it the right file for this config?")
    return plan


def without_leading_ones(shape: Iterable[int]) -> list[int]:
    """A table of positions is (1, n, width) here and (n, width) there."""
    shape = list(shape)
    while shape and shape[0] == 1:
        shape.pop(0)
    return shape


def _listed(names: list[str]) -> str:
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")


# ---- 4. copy -----------------------------------------------------------------------------------------------------


@torch.no_grad()
def load_tensors(
    module: nn.Module,
    source: str | Path | Tensors,
    translate: Translate,
    absent: Callable[[str], str | None] = lambda name: None,
) -> Plan:
    """Fill `module` tensor by tensor, in its own dtype and on its own device: besides the module itself, no more than
    MAPPED_BYTES and a tensor are ever in memory.

    What `absent` allows to be absent is left for the caller to make. Raises UserError before anything is copied.
    """
    tensors = source if isinstance(source, Tensors) else Tensors(source)
    targets = module.state_dict()
    plan = make_plan(targets, tensors, translate, absent)
    for name, tensor in tensors.read(plan.reads):
        ours, part, parts = plan.reads[name]
        target = targets[ours].chunk(parts)[part] if parts > 1 else targets[ours]
        target.copy_(tensor.view(target.shape))
    return plan


def absent_in_janus(name: str, given: dict) -> str | None:
    """What a UniX has and Janus-Pro has not. New: what touches latents and time. Copied: the gen branch, from the und
    branch; QK norms and QKV biases begin as what Janus does without them, 1 and 0; an output layer that is tied to the
    embedding (`given`, its config.json, says so)."""
    if name.startswith(("time_embedder.", "vae2llm.", "llm2vae.")):
        return "new"
    if name == "lm_head.weight" and given.get("tie_word_embeddings"):
        return "copied"
    neutral = re.search(r"\.attn\.und\.(q_norm\.weight|k_norm\.weight|qkv\.bias)$", name)
    return "copied" if ".gen." in name or neutral else None


@torch.no_grad()
def start_from_janus(model: UniX, tensors: Tensors, translate: Translate, given: dict, seed: int = 0) -> Plan:
    """Fill `model` from a Janus-Pro file with config.json `given`, and make the rest (paper section 3.4)."""
    plan = load_tensors(model, tensors, translate, lambda name: absent_in_janus(name, given))
    state = model.state_dict()
    for name in plan.copied:
        if ".und." in name:
            state[name].fill_(1.0 if name.endswith("norm.weight") else 0.0)
    if "lm_head.weight" in plan.copied:
        model.lm_head.weight.copy_(model.embed_tokens.weight)
    model.copy_und_to_gen()
    generator = torch.Generator().manual_seed(seed)
    for name in sorted(plan.new):
        zero = name.startswith("llm2vae.") or name.endswith("bias")  # the first velocity is 0: no jump at the start
        std = 0.0 if zero else 0.02
        state[name].copy_(torch.empty(state[name].shape).normal_(0.0, std, generator=generator))
    return plan


# ---- configs from files ------------------------------------------------------------------------------------------


def read_json(path: Path) -> dict:
    """{} if there is no such file."""
    try:
        values = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: not readable JSON ({error})") from error
    if not isinstance(values, dict):
        raise UserError(f"{path}: not a config (a JSON object is expected)")
    return values


def our_shapes(tensors: Tensors, translate: Translate) -> dict[str, tuple[int, ...]]:
    """Our name -> shape of one of its parts; what cannot be translated is left for the plan to name."""
    places, _, _ = translate_names(tensors, translate)
    return {ours: tensors.shapes[name] for name, (ours, _, _) in places.items()}


def depth(shapes: dict[str, tuple[int, ...]], prefix: str) -> int:
    """How many numbered layers `prefix` has."""
    numbers = [int(name.removeprefix(prefix).split(".")[0]) for name in shapes if name.startswith(prefix)]
    return 1 + max(numbers, default=-1)


def vit_config(shapes: dict[str, tuple[int, ...]], given: dict, prefix: str = "") -> ViTConfig:
    """Sizes from the tensors; heads, which no tensor shows, from the config, else 64 channels each as SigLIP has."""
    width, _, patch, _ = shapes[prefix + "patch_embed.weight"]
    class_token = prefix + "cls_token" in shapes
    side = round((shapes[prefix + "pos_embed"][-2] - class_token) ** 0.5)
    heads = given.get("num_attention_heads") or given.get("params", {}).get("heads") or max(1, width // 64)
    return ViTConfig(
        image_size=side * patch,
        patch_size=patch,
        width=width,
        layers=depth(shapes, prefix + "blocks."),
        heads=heads,
        mlp_width=shapes[prefix + "blocks.0.fc1.weight"][0],
        act="gelu_tanh" if "tanh" in str(given.get("hidden_act")) else "gelu",
        class_token=class_token,
        layer_scale=prefix + "blocks.0.scale1.gamma" in shapes,
    )


def unix_config(tensors: Tensors, layout: Layout, given: dict, parity: bool = False) -> UniXConfig:
    """The config of a published UniX, or of the UniX that starts from Janus-Pro; with `parity`, of Janus-Pro itself."""
    shapes = our_shapes(tensors, layout.translate)
    language = given.get("language_config") or given.get("text_config") or given.get("llm_config") or {}
    try:
        vocab_size, width = shapes["embed_tokens.weight"]
        # Where neither a norm over heads nor the config tells, Llama's 128 channels a head.
        head_dim = shapes.get("layers.0.attn.und.q_norm.weight", (128,))[0]
        config = UniXConfig(
            hidden_size=width,
            intermediate_size=shapes["layers.0.und.mlp.gate_up.weight"][0],
            num_layers=depth(shapes, "layers."),
            num_heads=language.get("num_attention_heads") or max(1, width // head_dim),
            vocab_size=vocab_size,
            context_length=language.get("max_position_embeddings", 16384),
            rms_norm_eps=language.get("rms_norm_eps", 1e-6),
            rope_theta=(language.get("rope_parameters") or language).get("rope_theta", 10000.0),
            latent_channels=shapes.get("vae2llm.weight", (0, 16))[1],
            vit=vit_config(shapes, given.get("vision_config") or given.get("vit_config") or {}, "vit."),
        )
    except (KeyError, ValueError, IndexError) as error:
        raise UserError(f"{tensors.path}: no whole {layout.holds} in it (nothing for {error})") from error
    if "latent_pos_embed.pos_embed" in tensors.shapes:
        config.max_latent_size = round(tensors.shapes["latent_pos_embed.pos_embed"][0] ** 0.5)
    config.repa_layer = min(config.repa_layer, config.num_layers)
    if parity:
        config.causal, config.qk_norm, config.qkv_bias, config.connector_act = True, False, False, "gelu"
        config.vit.mean = config.vit.std = 0.5
    return config


# A special token's names: Janus-Pro's and DeepSeek's, then those of tokenizers we train.
SPECIAL = {
    "bos": ("<｜begin▁of▁sentence｜>", "<|bos|>"),
    "eos": ("<｜end▁of▁sentence｜>", "<|eos|>"),
    "boi": ("<begin_of_image>", "<|boi|>"),
    "eoi": ("<end_of_image>", "<|eoi|>"),
}


def set_special_ids(config: UniXConfig, tokenizer: Tokenizer, path: Path) -> None:
    """By name where the tokenizer knows one, else the published numbers stay."""
    for field_name, names in SPECIAL.items():
        ids = [id_ for id_ in map(tokenizer.token_to_id, names) if id_ is not None]
        if ids:
            setattr(config, field_name, ids[0])
        if getattr(config, field_name) >= config.vocab_size:
            raise UserError(
                f"{path}: has no {names[0]}, and id {getattr(config, field_name)} is beyond the model's"
                f" {config.vocab_size} tokens; is it this model's tokenizer?"
            )


def vae_config(tensors: Tensors) -> VAEConfig:
    """kl-f16's sizes from its tensors."""
    shapes = our_shapes(tensors, translate_vae)
    try:
        ch = shapes["encoder.conv_in.weight"][0]
        levels = depth(shapes, "encoder.down.")
        widths = [shapes[f"encoder.down.{level}.block.0.conv2.weight"][0] for level in range(levels)]
        return VAEConfig(
            ch=ch,
            ch_mult=tuple(width // ch for width in widths),
            num_res_blocks=depth(shapes, "encoder.down.0.block."),
            z_channels=shapes["post_quant_conv.weight"][1],
        )
    except (KeyError, ValueError, IndexError) as error:
        raise UserError(f"{tensors.path}: no whole KL autoencoder in it (nothing for {error})") from error


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


def read_tokenizer(path: str | Path) -> Tokenizer:
    """Raises UserError if the file is missing or broken."""
    try:
        tokenizer = Tokenizer.from_str(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); a weights folder needs its tokenizer") from error
    except Exception as error:  # `tokenizers` raises bare Exception
        raise UserError(f"{path}: not a tokenizer ({error})") from error
    tokenizer.encode_special_tokens = True
    return tokenizer


def load_checkpoint(
    folder: str | Path,
    device: str | torch.device = "cpu",
    dtype: torch.dtype = torch.float32,
    parity: bool = False,
    vae: str | Path | None = None,
) -> Checkpoint:
    """Our folder, that of a training run, a published UniX, or Janus-Pro -> model and VAE on `device` in `dtype`
    (weights and compute).

    A UniX that starts from Janus-Pro gets its gen branch as a copy of the und branch. parity: load a Janus-Pro not as
    such a start but as itself, without autoencoder; other folders do not care. vae: the kl-f16 file of a published
    folder; default: the one in its folder vae/.
    Raises UserError naming the file if one is missing, truncated or does not fit the config.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise UserError(f"{folder}: no such weights folder")
    folder = find_checkpoint(folder) or folder
    if not (folder / "config.json").is_file():
        raise UserError(f"{folder / 'config.json'}: missing; is this a weights folder?")
    config = read_json(folder / "config.json")
    if "model" not in config:
        return load_published(folder, config, device, dtype, parity, vae)
    try:
        model_config = UniXConfig.from_dict(config["model"])
        vae_config = VAEConfig(**config["vae"])
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{folder / 'config.json'}: not a config of ours ({error})") from error
    tokenizer = read_tokenizer(folder / "tokenizer.json")
    model = empty(lambda: UniX(model_config, compute_dtype=dtype), device, dtype)
    autoencoder = empty(lambda: VAE(vae_config), device, dtype)
    load_tensors(model, folder / "model.safetensors", translate_ours)
    load_tensors(autoencoder, folder / "vae.safetensors", translate_ours)
    return Checkpoint(model.eval(), autoencoder.eval(), tokenizer, config.get("history", []))


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
    if tokenizer.get_vocab_size() > config.vocab_size:
        raise UserError(
            f"{folder / 'tokenizer.json'}: has {tokenizer.get_vocab_size()} tokens, the model {config.vocab_size};"
            " is it this model's tokenizer?"
        )
    if janus:  # the published UniX was trained with bare numbers, whatever stands at them
        set_special_ids(config, tokenizer, folder / "tokenizer.json")
    autoencoder = None if parity else load_vae(vae or find_vae(folder), device, dtype)
    model = empty(lambda: UniX(config, compute_dtype=dtype), device, dtype)
    if janus:
        plan = start_from_janus(model, tensors, layout.translate, given)
    else:
        plan = load_tensors(model, tensors, layout.translate)
    counts = ", ".join(f"{what} {count}" for what, count in plan.counts().items())
    print(f"{folder}: {layout.holds}: {counts}")
    return Checkpoint(model.eval(), autoencoder, tokenizer)


def find_vae(folder: Path) -> Path:
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


def find_checkpoint(run: Path) -> Path | None:
    """The newest whole checkpoint in the folder of a training run; None if there is none."""
    # Between the two renames of a save only the older one stands under its name.
    found = [run / name for name in (CHECKPOINT, CHECKPOINT + ".old") if (run / name).is_dir()]
    return found[0] if found else None


def empty(build: Callable[[], nn.Module], device: str | torch.device, dtype: torch.dtype) -> nn.Module:
    """A module in real, uninitialised memory of `dtype`, never initialised on the way; fixed tables are computed."""
    with torch.device("meta"):
        module = build()
    # Not `to_empty`: on the meta device torch's empty_like is Python code, whose first use imports torch's compiler.
    memory = {
        name: torch.empty(value.shape, dtype=dtype if value.is_floating_point() else value.dtype, device=device)
        for name, value in module.state_dict().items()
    }
    module.load_state_dict(memory, assign=True)
    if isinstance(module, UniX):
        module.reset_tables()
    return module


def save_checkpoint(
    folder: str | Path,
    checkpoint: Checkpoint,
    dtype: torch.dtype = torch.float32,
    instead: dict[str, torch.Tensor] | None = None,
    more: Callable[[Path], None] = lambda folder: None,
    keep_last: bool = False,
) -> None:
    """Write our folder: all of it to FOLDER.tmp, to the disk, then renamed over what was there.

    instead: tensors of the model to write in place of those it holds (the originals of a branch kept in bfloat16).
    more: writes further files into the folder. keep_last: what was there stays as FOLDER.old.
    Raises UserError if it cannot; what was there is then untouched.
    """
    folder = Path(folder)
    if checkpoint.vae is None:
        raise UserError(f"{folder}: a checkpoint needs its autoencoder; name kl-f16's file with --vae")
    temporary, old = folder.with_name(folder.name + ".tmp"), folder.with_name(folder.name + ".old")
    config = {
        "model": checkpoint.model.config.to_dict(),
        "vae": asdict(checkpoint.vae.config),
        "history": checkpoint.history,
    }
    try:
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        (temporary / "config.json").write_text(json.dumps(config, indent=1) + "\n")
        for module, file in ((checkpoint.model, "model.safetensors"), (checkpoint.vae, "vae.safetensors")):
            state = module.state_dict() | ((instead or {}) if module is checkpoint.model else {})
            save_file({name: tensor.to("cpu", dtype).contiguous() for name, tensor in state.items()}, temporary / file)
        checkpoint.tokenizer.save(str(temporary / "tokenizer.json"))
        more(temporary)
        for file in temporary.iterdir():
            flush_to_disk(file)
        if folder.exists():
            shutil.rmtree(old, ignore_errors=True)
            os.rename(folder, old)
        os.rename(temporary, folder)
        if not keep_last:
            shutil.rmtree(old, ignore_errors=True)
    except Exception as error:  # safetensors and tokenizers raise their own kinds, besides OSError
        shutil.rmtree(temporary, ignore_errors=True)
        raise UserError(f"{folder}: the checkpoint could not be written ({error}); is the disk full?") from error


def flush_to_disk(file: Path) -> None:
    """A rename may reach the disk before the file's content does; after a power cut that would be an empty file."""
    with open(file, "rb+") as written:
        os.fsync(written.fileno())


# ---- the command -------------------------------------------------------------------------------------------------


def inspect(path: Path) -> None:
    """Print what a file, or each file of a folder, is and what loading it would do. Nothing is loaded."""
    path = find_checkpoint(path) or path
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
                print(f"  {what:8} {_listed(sorted(names))}")
        print(f"  use      {layout.use.format(folder=file.parent)}")


def describe(tensors: Tensors, layout: Layout, given: dict) -> tuple[dict[str, str], Plan]:
    """(part -> its sizes in words, what loading would do)."""

    def vit_words(vit: ViTConfig) -> str:
        return (
            f"{vit.layers} layers, width {vit.width}, MLP {vit.mlp_width}, patch {vit.patch_size}, {vit.image_size} px"
        )

    if layout in (OURS, PUBLISHED, JANUS, HF_JANUS):
        ours = layout is OURS and "model" in given
        config = UniXConfig.from_dict(given["model"]) if ours else unix_config(tensors, layout, given)
        llm = f"{config.num_layers} layers, width {config.hidden_size}, MLP {config.intermediate_size}"
        sizes = {"LLM": f"{llm}, vocabulary {config.vocab_size:,}", "ViT": vit_words(config.vit)}
        with torch.device("meta"):
            targets = UniX(config).state_dict()
        if layout in (JANUS, HF_JANUS):
            return sizes, make_plan(targets, tensors, layout.translate, lambda name: absent_in_janus(name, given))
        return sizes, make_plan(targets, tensors, layout.translate)
    if layout is KL_VAE:
        config = vae_config(tensors)
        config.norm_groups = given.get("vae", {}).get("norm_groups", config.norm_groups)
        with torch.device("meta"):
            targets = VAE(config).state_dict()
        words = f"ch {config.ch}, multipliers {config.ch_mult}, {config.num_res_blocks} blocks, z {config.z_channels}"
        return {"VAE": words}, make_plan(targets, tensors, translate_vae)
    shapes = our_shapes(tensors, layout.translate)
    places, skipped, unknown = translate_names(tensors, layout.translate)
    plan = Plan(places, skipped)
    if unknown:
        raise UserError(f"{tensors.path}: {len(unknown)} tensors unknown ({_listed(unknown)})")
    if layout in (SIGLIP, DINOV2):
        return {"ViT": vit_words(vit_config(shapes, given))}, plan
    prefix = "" if layout is BERT else "bert."
    if prefix + "word.weight" in shapes:
        vocab_size, width = shapes[prefix + "word.weight"]
        return {"BERT": f"{depth(shapes, prefix + 'blocks.')} layers, width {width}, vocabulary {vocab_size:,}"}, plan
    return {}, plan


def main() -> None:
    parser = argparse.ArgumentParser(
        description="Look into a checkpoint, or rewrite one as our folder.",
        epilog="examples: python weights.py inspect assets/tiny; python weights.py convert weights/Janus-Pro-1B"
        " weights/start --vae weights/vae/kl-f16d16.ckpt",
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    command = commands.add_parser("inspect", help="say what a file or folder is and what loading it would do")
    command.add_argument("path", type=Path, help="a .safetensors, .bin, .ckpt, .pt or index file, or a folder")
    command = commands.add_parser("convert", help="write our folder: from ours, a published UniX, or Janus-Pro")
    command.add_argument("source", type=Path, help="a weights folder")
    command.add_argument("destination", type=Path, help="the folder to write; replaced if it is there")
    command.add_argument("--dtype", choices=DTYPES, default="bfloat16", help="of the new file (default bfloat16)")
    command.add_argument("--vae", type=Path, help="kl-f16's file; default: the one in SOURCE/vae")
    args = parser.parse_args()
    if args.command == "inspect":
        inspect(args.path)
        return
    checkpoint = load_checkpoint(args.source, dtype=DTYPES[args.dtype], vae=args.vae)
    save_checkpoint(args.destination, checkpoint, DTYPES[args.dtype])
    size = sum(file.stat().st_size for file in args.destination.iterdir())
    print(f"{args.destination}: {size / 1e6:,.1f} MB")


if __name__ == "__main__":
    run(main)
