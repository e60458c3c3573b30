"""Configs that can be meant: ours as it is written, a published model's from the shapes of its tensors.

A published config.json is asked only for what no shape tells, and for its counts of layers, which must agree.
Whatever a config says is checked here before memory is taken: types (from the dataclass), ranges, and what must divide
what. Every check raises UserError in a line that names the file and the first field that cannot be meant.
"""

import contextlib
import math
from collections.abc import Iterable, Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any, get_type_hints

from tokenizers import Tokenizer, processors

from checkpoints.layouts import Layout, Translate, translate_vae
from checkpoints.plan import translate_names
from checkpoints.tensors import Tensors
from common.errors import UserError
from common.files import read_json
from common.images import SCALINGS
from common.sampling import DOWNSAMPLING
from model import UniXConfig
from vae import VAEConfig
from vit import ViTConfig

# The least and the most of each number, wherever the field occurs; any other whole number is from 1 to 2**18.
LIMITS = (
    ("num_layers num_heads layers heads repa_layer latent_channels z_channels num_res_blocks", 1, 1024),
    ("max_latent_size patch_size patch ch_mult", 1, 256),  # ch_mult: each of it
    ("vocab_size context_length", 1, 2**24),
    ("bos eos boi eoi", -math.inf, math.inf),  # `check_unix` knows the vocabulary
    ("padding", 0, 255),
    ("rms_norm_eps std rope_theta guidance", 1e-30, 1e12),
    ("mean scale_factor shift_factor", -1e6, 1e6),
)
RANGES = {name: (least, most) for names, least, most in LIMITS for name in names.split()}
CHOICES = {"act": ("gelu", "gelu_tanh"), "connector_act": ("gelu", "gelu_tanh"), "scaling": SCALINGS}
CHOICES |= {"recipe": ("tiny", "small", "unix"), "wording": ("plain", "published")}
# The names that published configs have for what our layers compute.
VIT_ACTS = {"gelu": "gelu", "gelu_pytorch_tanh": "gelu_tanh"}
# A special token's names: Janus-Pro's and DeepSeek's, then those of tokenizers we train.
SPECIAL = {
    "bos": ("<｜begin▁of▁sentence｜>", "<|bos|>"),
    "eos": ("<｜end▁of▁sentence｜>", "<|eos|>"),
    "boi": ("<begin_of_image>", "<|boi|>"),
    "eoi": ("<end_of_image>", "<|eoi|>"),
}


def require(holds: bool, path: Path, text: str) -> None:
    if not holds:
        raise UserError(f"{path}: {text}")


def shortened(value: object) -> str:
    """A value as JSON shows it, or nearly, for a message."""
    text = "null" if value is None else repr(value)
    return text if len(text) <= 40 else text[:37] + "..."


# ---- what a config may say ---------------------------------------------------------------------------------------


def check_fields(config: Any, path: Path, at: str) -> None:
    """Every field has the type that its dataclass states and lies in its range. path, at: the file and part to name."""
    words = {int: "a whole number", float: "a finite number", bool: "true or false", str: "text"}
    for name, kind in get_type_hints(type(config)).items():
        value, many = getattr(config, name), kind == tuple[int, ...]
        kind = int if many else kind
        if kind not in words:
            continue  # a config inside this one: its own check's
        must = f"{at}{name} is {shortened(value)}; it must be"
        require(not many or isinstance(value, tuple), path, f"{must} a list")
        least, most = RANGES.get(name, (1, 2**18))
        for one in value if many else (value,):
            right = type(one) is kind or (kind is float and type(one) is int)
            require(right and (kind is not float or abs(one) < 1e300), path, f"{must} {words[kind]}")
            require(kind not in (int, float) or least <= one <= most, path, f"{must} from {least:g} to {most:g}")
        if name in CHOICES:
            require(value in CHOICES[name], path, f"{must} one of {', '.join(CHOICES[name])}")


def check_vit(config: ViTConfig, path: Path, at: str = "") -> ViTConfig:
    """The config itself."""
    check_fields(config, path, at)
    width, heads, size, patch = config.width, config.heads, config.image_size, config.patch_size
    require(width % heads == 0, path, f"{at}heads is {heads}; it must divide the width, {width}")
    require(size % patch == 0, path, f"{at}patch_size is {patch}; it must divide image_size, {size}")
    return config


def check_unix(config: UniXConfig, path: Path, at: str = "", ids: bool = True) -> UniXConfig:
    """The config itself. ids: whether its special ids are known by now."""
    check_fields(config, path, at)
    check_vit(config.vit, path, at + "vit.")
    width, heads, layer, layers = config.hidden_size, config.num_heads, config.repa_layer, config.num_layers
    require(width % heads == 0, path, f"{at}num_heads is {heads}; it must divide hidden_size, {width}")
    require(width // heads % 2 == 0, path, f"{at}num_heads is {heads}; {width // heads} channels a head are not even")
    require(width % 4 == 0, path, f"{at}hidden_size is {width}; it must be a multiple of 4")
    require(layer <= layers, path, f"{at}repa_layer is {layer}; the model has {layers} layers")
    for name in SPECIAL if ids else ():
        id_, last = getattr(config, name), config.vocab_size - 1
        require(0 <= id_ <= last, path, f"{at}{name} is {id_}; the vocabulary's ids go from 0 to {last}")
    return config


def check_vae(config: VAEConfig, path: Path, at: str = "") -> VAEConfig:
    """The config itself."""
    check_fields(config, path, at)
    levels, groups = len(config.ch_mult), config.norm_groups
    require(1 <= levels <= 8, path, f"{at}ch_mult has {levels} levels; it must have from 1 to 8")
    side = config.patch * 2 ** (levels - 1)
    need = f"{at}ch_mult and patch make a latent of {side} px; it must be of {DOWNSAMPLING}"
    require(side == DOWNSAMPLING, path, need)
    for width in (factor * config.ch for factor in (1, *config.ch_mult)):
        require(width <= 2**16, path, f"{at}ch_mult: a level of {width} channels; at most {2**16} are possible")
        require(width % groups == 0, path, f"{at}norm_groups is {groups}; it must divide every level's width, {width}")
    require(config.scale_factor != 0, path, f"{at}scale_factor is 0; latents are multiplied by it")
    return config


def check_latents(model: UniXConfig, vae: VAEConfig, path: Path) -> None:
    """The autoencoder can decode what the model draws."""
    drawn, decoded = model.latent_channels, vae.z_channels
    require(drawn == decoded, path, f"the model draws latents of {drawn} channels, its autoencoder decodes {decoded}")


def read_ours(given: dict, path: Path) -> tuple[UniXConfig, VAEConfig]:
    """The two configs of our own config.json."""
    model = read_fields(UniXConfig, given.get("model"), path, "model.")
    model.vit = read_fields(ViTConfig, given["model"].get("vit"), path, "model.vit.")
    vae = check_vae(read_fields(VAEConfig, given.get("vae"), path, "vae."), path, "vae.")
    check_unix(model, path, "model.")
    check_latents(model, vae, path)
    history = given.get("history", [])
    sound = isinstance(history, list) and all(isinstance(entry, dict) and "stage" in entry for entry in history)
    require(sound, path, "history is no list of training stages")
    return model, vae


def read_fields(kind: type, values: object, path: Path, at: str) -> Any:
    """A config of `kind` from the JSON object `values`, not yet checked; what is left out has its default."""
    require(isinstance(values, dict), path, f"{at.rstrip('.')} is {shortened(values)}; it must be an object")
    known = {field.name for field in fields(kind)}
    for name in values:
        require(name in known, path, f"{at}{shortened(name)} is no field of ours; was it written by another version?")
    return kind(**{name: tuple(value) if isinstance(value, list) else value for name, value in values.items()})


# ---- published ---------------------------------------------------------------------------------------------------


def section(given: dict, path: Path, *names: str) -> dict:
    """The first object of a published config.json that stands under one of `names`; {} if there is none."""
    for name in names:
        value = given.get(name)
        require(value is None or isinstance(value, dict), path, f"{name} is {shortened(value)}; it must be an object")
        if value:
            return value
    return {}


def check_computed(given: dict, path: Path, what: str, **known: Iterable[Any]) -> None:
    """A published config asks for nothing that our layers do not compute. known: key -> the values that they do."""
    for name, values in known.items():
        value, names = given.get(name), ", ".join(map(str, values))
        require(value in (None, *values), path, f"{name} is {shortened(value)}; our {what} computes {names} alone")
    for name in ("rope_scaling", "rope_parameters"):
        rope = section(given, path, name)
        kind = rope.get("rope_type", rope.get("type", "default" if "factor" not in rope else None))
        require(kind == "default", path, f"{name} is {shortened(rope)}; our rotary positions are not scaled")


def check_depth(found: int, given: dict, what: str, tensors: Tensors, path: Path) -> None:
    """The file has as many layers as its config.json counts, if that does."""
    params = section(given, path, "params")
    counts = [values.get(name) for values in (given, params) for name in ("num_hidden_layers", "layers")]
    counted = next((count for count in counts if count is not None), found)
    require(type(counted) is int, path, f"num_hidden_layers is {shortened(counted)}; it must be a whole number")
    if counted != found:
        words = f"holds {found} layers of the {what}, {path.name} counts {counted}"
        raise UserError(f"{tensors.path}: {words}; fetch both again")


def our_shapes(tensors: Tensors, translate: Translate) -> dict[str, tuple[int, ...]]:
    """Our name -> shape of one of its parts; what cannot be translated is left for the plan to name."""
    return {ours: tensors.shapes[name] for name, (ours, _, _) in translate_names(tensors, translate).reads.items()}


@contextlib.contextmanager
def read_from(tensors: Tensors, what: str) -> Iterator[None]:
    """Around what reads sizes from shapes: UserError if it finds none or others than `what` has."""
    try:
        yield
    except (KeyError, ValueError, IndexError, ZeroDivisionError) as error:
        raise UserError(f"{tensors.path}: no whole {what} in it (nothing for {error})") from error


def depth(shapes: dict[str, tuple[int, ...]], prefix: str) -> int:
    """How many numbered layers `prefix` has; no more than there are tensors, whatever number one names."""
    numbers = [int(name.removeprefix(prefix).split(".")[0]) for name in shapes if name.startswith(prefix)]
    return min(1 + max(numbers, default=-1), len(shapes))


def vit_config(shapes: dict[str, tuple[int, ...]], given: dict, path: Path, prefix: str = "") -> ViTConfig:
    """Sizes from the tensors; heads, which none shows, from `given` (the JSON at `path`), else 64 channels each."""
    check_computed(given, path, "ViT", hidden_act=VIT_ACTS, layer_norm_eps=[1e-6])
    width, _, patch, _ = shapes[prefix + "patch_embed.weight"]
    class_token = prefix + "cls_token" in shapes
    side = round((shapes[prefix + "pos_embed"][-2] - class_token) ** 0.5)
    heads = given.get("num_attention_heads") or section(given, path, "params").get("heads") or max(1, width // 64)
    return ViTConfig(
        image_size=side * patch,
        patch_size=patch,
        width=width,
        layers=depth(shapes, prefix + "blocks."),
        heads=heads,
        mlp_width=shapes[prefix + "blocks.0.fc1.weight"][0],
        act=VIT_ACTS[given.get("hidden_act") or "gelu"],
        class_token=class_token,
        layer_scale=prefix + "blocks.0.scale1.gamma" in shapes,
    )


def unix_config(tensors: Tensors, layout: Layout, given: dict, parity: bool = False) -> UniXConfig:
    """The config of a published UniX, or of the UniX that starts from Janus-Pro; with `parity`, of Janus-Pro itself."""
    shapes = our_shapes(tensors, layout.translate)
    path = Path(tensors.path).parent / "config.json"
    language = section(given, path, "language_config", "text_config", "llm_config")
    vision = section(given, path, "vision_config", "vit_config")
    for values in (given, language):  # a config may describe its LLM without a section of its own
        check_computed(values, path, "LLM", hidden_act=["silu"], partial_rotary_factor=[1.0])
    with read_from(tensors, layout.holds):
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
            rope_theta=(section(language, path, "rope_parameters") or language).get("rope_theta", 10000.0),
            latent_channels=shapes.get("vae2llm.weight", (0, 16))[1],
            vit=vit_config(shapes, vision, path, "vit."),
        )
    if "latent_pos_embed.pos_embed" in tensors.shapes:
        config.max_latent_size = round(tensors.shapes["latent_pos_embed.pos_embed"][0] ** 0.5)
    config.repa_layer = min(config.repa_layer, config.num_layers)
    # The film as eval/base/worker.py of UniX squares it, also for a UniX that starts from Janus-Pro: what is trained
    # sees the squares that it will be judged on.
    config.vit.padding, config.vit.scaling = 255, "shrink"
    if parity:
        config.qk_norm, config.qkv_bias, config.connector_act, config.wording = False, False, config.vit.act, "plain"
        config.vit.mean = config.vit.std = 0.5
        config.vit.padding, config.vit.scaling = 127, "janus"  # int(255 * 0.5): image_processing_vlm.py
    check_depth(config.num_layers, language, "LLM", tensors, path)
    check_depth(config.vit.layers, vision, "ViT", tensors, path)
    return check_unix(config, path, ids=False)


def vae_config(tensors: Tensors) -> VAEConfig:
    """kl-f16's sizes from its tensors."""
    shapes = our_shapes(tensors, translate_vae)
    with read_from(tensors, "KL autoencoder"):
        ch, levels = shapes["encoder.conv_in.weight"][0], range(depth(shapes, "encoder.down."))
        config = VAEConfig(
            ch=ch,
            ch_mult=tuple(shapes[f"encoder.down.{level}.block.0.conv2.weight"][0] // ch for level in levels),
            num_res_blocks=depth(shapes, "encoder.down.0.block."),
            z_channels=shapes["post_quant_conv.weight"][1],
        )
    return check_vae(config, Path(tensors.path))


def read_tokenizer(path: str | Path, vocab_size: int | None = None) -> Tokenizer:
    """A tokenizer that cuts and pads nothing, whatever its file says. vocab_size: how many ids the model knows."""
    try:
        tokenizer = Tokenizer.from_str(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); a weights folder needs its tokenizer") from error
    except Exception as error:  # `tokenizers` raises bare Exception
        raise UserError(f"{path}: not a tokenizer ({error})") from error
    tokens = 1 + max(tokenizer.get_vocab(with_added_tokens=True).values(), default=-1)
    if vocab_size is not None and tokens > vocab_size:
        raise UserError(f"{path}: has {tokens} tokens, the model {vocab_size}; is it this model's tokenizer?")
    tokenizer.no_truncation()  # transformers saves how it was called last with the file
    tokenizer.no_padding()
    tokenizer.encode_special_tokens = True
    adds_bos = read_json(Path(path).with_name("tokenizer_config.json"), absent={}).get("add_bos_token")
    if isinstance(adds_bos, bool):  # transformers' Llama tokenizers obey it, whatever tokenizer.json does
        known = [
            (name, tokenizer.token_to_id(name)) for name in SPECIAL["bos"] if tokenizer.token_to_id(name) is not None
        ]
        first = known[:1] if adds_bos else []
        single = " ".join([*(name for name, _ in first), "$A"])
        tokenizer.post_processor = processors.TemplateProcessing(single=single, special_tokens=first)
    return tokenizer


def set_special_ids(config: UniXConfig, tokenizer: Tokenizer, path: Path) -> None:
    """By name where the tokenizer knows one, else the published numbers stay."""
    for field, names in SPECIAL.items():
        ids = [id_ for id_ in map(tokenizer.token_to_id, names) if id_ is not None]
        id_ = (ids or [getattr(config, field)])[0]
        setattr(config, field, id_)
        if id_ >= config.vocab_size:
            words = f"has no {names[0]}, and id {id_} is beyond the model's {config.vocab_size} tokens"
            raise UserError(f"{path}: {words}; is it this model's tokenizer?")
