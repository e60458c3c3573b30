"""A plan for loading: every tensor of the file and of the model is accounted for before the first is copied.

`make_plan` decides, `load_tensors` copies one tensor at a time into place, `start_from_janus` also makes what a
Janus-Pro does not have.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import nn

from checkpoints.layouts import Place, Translate
from checkpoints.tensors import COPIED, Tensors, listed
from common.errors import UserError
from model import UniX


@dataclass
class Plan:
    """What becomes of every tensor. Theirs are read or skipped; ours that the file lacks are copied or made new."""

    reads: dict[str, Place] = field(default_factory=dict)  # their name -> where it goes
    skipped: list[str] = field(default_factory=list)
    copied: list[str] = field(default_factory=list)  # our names, from here on
    new: list[str] = field(default_factory=list)

    def counts(self) -> dict[str, int]:
        numbers = {"read": self.reads, "copied": self.copied, "new": self.new, "skipped": self.skipped}
        return {what: len(names) for what, names in numbers.items()}


def translate_names(tensors: Tensors, translate: Translate) -> tuple[dict[str, Place], list[str], list[str]]:
    """Their names -> (places, names to skip, unknown names)."""
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
    """Where every tensor goes, before any is copied.

    targets: our names and tensors; the meta device is enough. absent: "copied" or "new" for a tensor of ours that this
    layout does not have and that a rule makes, None for one that must be there.

    Raises UserError naming the file and the first tensors that are missing, unknown, of a wrong shape, or numbers that
    are no weights as they stand (integers, float8: they want a scale that nobody gives).
    """
    places, skipped, unknown = translate_names(tensors, translate)
    plan, filled = Plan(skipped=skipped), {}  # filled: our name -> the parts of it that are still to come
    misshapen, twice, uncopied = [], [], []
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
        if targets[ours].is_floating_point() and tensors.dtypes[name] not in COPIED:
            uncopied.append(f"{name} {tensors.dtypes[name]}")
        remaining = filled.setdefault(ours, set(range(parts)))
        if part not in remaining:
            twice.append(name)
        remaining.discard(part)
        plan.reads[name] = place
    missing = [ours for ours, remaining in filled.items() if remaining]  # some of its parts do not make a tensor
    for ours in targets.keys() - filled.keys():
        {"copied": plan.copied, "new": plan.new, None: missing}[absent(ours)].append(ours)
    problems = [
        f"{len(names)} tensors {what} ({listed(sorted(names))})"
        for what, names in (
            ("missing", missing),
            ("unknown", unknown),
            ("of a wrong shape", misshapen),
            ("given twice", twice),
            ("of a kind that is not copied", uncopied),
        )
        if names
    ]
    if problems:
        raise UserError(f"{tensors.path}: " + "; ".join(problems) + "; is it the right file for this config?")
    return plan


def without_leading_ones(shape: Iterable[int]) -> list[int]:
    """A shape without its leading ones: a table of positions may be stored as (1, n, width) or as (n, width)."""
    shape = list(shape)
    while shape and shape[0] == 1:
        shape.pop(0)
    return shape


@torch.no_grad()
def load_tensors(
    module: nn.Module,
    source: str | Path | Tensors,
    translate: Translate,
    absent: Callable[[str], str | None] = lambda name: None,
) -> Plan:
    """Fill `module` tensor by tensor, in its own dtype and on its own device.

    Besides the module itself, at most MAPPED_BYTES and one tensor are in memory. The caller makes what `absent` allows
    to be absent. Raises UserError before anything is copied, but for a weight that is NaN or infinite (also where only
    the module's dtype makes it so), which shows when it is read.
    """
    tensors = source if isinstance(source, Tensors) else Tensors(source)
    targets = module.state_dict()
    plan = make_plan(targets, tensors, translate, absent)
    for name, tensor in tensors.read(plan.reads):
        ours, part, parts = plan.reads[name]
        target = targets[ours].chunk(parts)[part] if parts > 1 else targets[ours]
        target.copy_(tensor.view(target.shape))
        if not is_finite(target):
            raise UserError(f"{tensors.path}: {name} holds NaN or infinite numbers as {target.dtype}; is it damaged?")
    return plan


def is_finite(tensor: torch.Tensor) -> bool:
    """Whether no number is NaN or infinite: any such shows in the sum, which costs a tenth of `isfinite`."""
    return math.isfinite(tensor.sum().item()) or bool(
        tensor.isfinite().all()
    )  # finite numbers too may have no finite sum


def absent_in_janus(name: str, given: dict) -> str | None:
    """How a UniX gets the tensor `name` that Janus-Pro does not have: "new", "copied", or None if it must be there.

    New: whatever touches latents and time. Copied: the gen branch, from the und branch; QK norms at 1 and QKV biases at
    0, which changes nothing that Janus computes; an output layer that is tied to the embedding, if `given` (the file's
    config.json) says so.
    """
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


def empty(
    build: Callable[[], nn.Module],
    device: str | torch.device,
    dtype: torch.dtype,
    fits: Callable[[dict[str, torch.Tensor]], object] = lambda targets: None,
) -> nn.Module:
    """The module that `build` makes, in uninitialised memory of `dtype`. Only its fixed tables are computed.

    fits: is shown the tensors before memory is taken; it raises if a file cannot fill them.
    """
    with torch.device("meta"):
        module = build()
    fits(module.state_dict())
    # Not `to_empty`: on the meta device torch's empty_like is Python code, whose first use imports torch's compiler.
    memory = {
        name: torch.empty(value.shape, dtype=dtype if value.is_floating_point() else value.dtype, device=device)
        for name, value in module.state_dict().items()
    }
    module.load_state_dict(memory, assign=True)
    return module.to(device)  # its fixed tables, which no file holds
