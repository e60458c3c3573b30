"""A plan for loading: every tensor of the file and of the model is accounted for before the first is copied.

`make_plan` decides, `load_tensors` copies one tensor at a time into place.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import dropwhile
from pathlib import Path

import torch
from torch import nn

from checkpoints.layouts import Place, Translate
from checkpoints.tensors import COPIED, Tensors, listed
from common.errors import UserError

Absent = Callable[[str], "str | None"]  # of a tensor of ours that the file lacks: see `make_plan`


@dataclass
class Plan:
    """What becomes of every tensor. Theirs are read, skipped or unknown; ours that the file lacks, copied or new."""

    reads: dict[str, Place] = field(default_factory=dict)  # their name -> where it goes
    skipped: list[str] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)
    copied: list[str] = field(default_factory=list)  # our names, from here on
    new: list[str] = field(default_factory=list)

    def counts(self) -> dict[str, int]:
        return {"read": len(self.reads), **{name: len(getattr(self, name)) for name in ("copied", "new", "skipped")}}

    def __str__(self) -> str:
        return ", ".join(f"{what} {count}" for what, count in self.counts().items())


def translate_names(tensors: Tensors, translate: Translate) -> Plan:
    """Their names alone: whether ours has such tensors, and of which shape, is not asked yet."""
    plan = Plan()
    for name in tensors.shapes:
        try:
            if place := translate(name):
                plan.reads[name] = place
            else:
                plan.skipped.append(name)
        except KeyError:
            plan.unknown.append(name)
    return plan


def make_plan(
    targets: dict[str, torch.Tensor], tensors: Tensors, translate: Translate, absent: Absent = lambda name: None
) -> Plan:
    """Where every tensor goes, before any is copied. targets: our names and tensors; the meta device is enough.

    absent: "copied" or "new" for a tensor of ours that this layout does not have and that a rule makes, None for one
    that must be there. Raises UserError naming the first tensors that are missing, unknown, of a wrong shape, or no
    weights as they stand (integers, float8: they want a scale that nobody gives).
    """
    plan = translate_names(tensors, translate)
    awaited, misshapen, twice, uncopied = {}, [], [], []  # awaited: our name -> the parts of it that are still to come
    for name, (ours, part, parts) in list(plan.reads.items()):
        if ours not in targets:
            plan.unknown.append(name)
            del plan.reads[name]
            continue
        shape, expected = [*tensors.shapes[name]], [*targets[ours].shape]
        if parts > 1:
            expected[0] //= parts
        # A table of positions may be stored as (1, n, width) or as (n, width).
        if [*dropwhile((1).__eq__, shape)] != [*dropwhile((1).__eq__, expected)]:
            misshapen.append(f"{name} {shape}, expected {expected}")
        if targets[ours].is_floating_point() and tensors.dtypes[name] not in COPIED:
            uncopied.append(f"{name} {tensors.dtypes[name]}")
        remaining = awaited.setdefault(ours, set(range(parts)))
        if part not in remaining:
            twice.append(name)
        remaining.discard(part)
    missing = [ours for ours, remaining in awaited.items() if remaining]  # some of its parts do not make a tensor
    for ours in targets.keys() - awaited.keys():
        {"copied": plan.copied, "new": plan.new, None: missing}[absent(ours)].append(ours)
    problems = {"missing": missing, "unknown": plan.unknown, "of a wrong shape": misshapen, "given twice": twice}
    problems |= {"of a kind that is not copied": uncopied}
    words = [f"{len(names)} tensors {what} ({listed(sorted(names))})" for what, names in problems.items() if names]
    if words:
        raise UserError(f"{tensors.path}: {'; '.join(words)}; is it the right file for this config?")
    return plan


@torch.no_grad()
def load_tensors(
    module: nn.Module, source: str | Path | Tensors, translate: Translate, absent: Absent = lambda name: None
) -> Plan:
    """Fill `module` tensor by tensor, in its own dtype and on its own device; what `absent` allows is the caller's.

    Raises UserError before anything is copied, but for a weight that is NaN or infinite (also where only the module's
    dtype makes it so), which shows when it is read.
    """
    tensors = source if isinstance(source, Tensors) else Tensors(source)
    targets = module.state_dict()
    plan = make_plan(targets, tensors, translate, absent)
    for name, tensor in tensors.read(plan.reads):
        ours, part, parts = plan.reads[name]
        target = targets[ours].chunk(parts)[part] if parts > 1 else targets[ours]
        target.copy_(tensor.view(target.shape))
        # Any NaN shows in the sum, which costs a tenth of `isfinite`; finite numbers too may have no finite sum.
        if not math.isfinite(target.sum().item()) and not target.isfinite().all():
            raise UserError(f"{tensors.path}: {name} holds NaN or infinite numbers as {target.dtype}; is it damaged?")
    return plan


def empty(build: Callable[[], nn.Module], device: str | torch.device, dtype: torch.dtype) -> nn.Module:
    """The module that `build` makes, in uninitialised memory of `dtype`. Only its fixed tables are computed."""
    with torch.device("meta"):
        module = build()
    # Not `to_empty`: on the meta device torch's empty_like is Python code, whose first use imports torch's compiler.
    memory = {
        name: torch.empty(value.shape, dtype=dtype if value.is_floating_point() else value.dtype, device=device)
        for name, value in module.state_dict().items()
    }
    module.load_state_dict(memory, assign=True)
    return module.to(device)  # its fixed tables, which no file holds


def filled(
    build: Callable[[], nn.Module],
    source: str | Path | Tensors,
    translate: Translate,
    device: str | torch.device = "cpu",
    dtype: torch.dtype = torch.float32,
) -> nn.Module:
    """The module that `build` makes, with `source` in it, in evaluation mode. Raises UserError as `load_tensors` does,
    before memory is taken for a module that the file does not fit."""
    tensors = source if isinstance(source, Tensors) else Tensors(source)
    plan_for(build, tensors, translate)
    module = empty(build, device, dtype)
    load_tensors(module, tensors, translate)
    return module.eval()


def plan_for(build: Callable[[], nn.Module], tensors: Tensors, translate: Translate, *absent: Callable) -> Plan:
    """What filling the module that `build` makes would do. absent: as of `make_plan`."""
    with torch.device("meta"):
        targets = build().state_dict()
    return make_plan(targets, tensors, translate, *absent)
