"""The checks of lesson 5."""

from __future__ import annotations

from collections.abc import Callable

import torch

from checks import NotYet, call
from checks.lesson_4 import small_model


def moved(answer: Callable) -> str:
    """answer(before, after) -> the names of the parameters that differ; see Exercise 1."""
    task = "return the set of names"
    before, after = small_model(1), small_model(1)
    given = names(call(answer, before, after, number=1, task=task))
    if given:
        raise NotYet(f"Exercise 1: nothing moved between two equal models, and you name {listed(given)}")
    with torch.no_grad():
        after.llm2vae.weight[3, 2] = torch.nextafter(after.llm2vae.weight[3, 2], torch.tensor(9.0))  # the last bit
        after.norm["und"].weight.neg_()
        after.norm["gen"].weight.copy_(after.norm["gen"].weight.flip(0))  # the same sum
    wanted = {"llm2vae.weight", "norm.und.weight", "norm.gen.weight"}
    given = names(call(answer, before, after, number=1, task=task))
    if given == set(dict(before.named_parameters())) - wanted:
        raise NotYet("Exercise 1: these are the names of what stands still; the others are wanted")
    if "llm2vae.weight" not in given:
        raise NotYet("Exercise 1: llm2vae.weight differs in the last bit of one number; compare exactly, not about")
    if missing := wanted - given:
        raise NotYet(f"Exercise 1: {listed(missing)} moved too: its numbers differ, even if their sum or size does not")
    if extra := given - wanted:
        raise NotYet(f"Exercise 1: {listed(extra)} did not move")
    return "Exercise 1: right. Every bit counts."


def names(given: object) -> set[str]:
    if isinstance(given, str) or not hasattr(given, "__iter__"):
        raise NotYet(f"Exercise 1: return a set of names, not {type(given).__name__}")
    given = list(given)
    if any(not isinstance(name, str) for name in given):
        raise NotYet("Exercise 1: names are wanted, as `named_parameters` gives them, not the parameters themselves")
    return set(given)


def listed(these: set[str]) -> str:
    first = sorted(these)[:2]
    return ", ".join(first) + (f" and {len(these) - 2} more" if len(these) > 2 else "")


def batch_for(answer: Callable) -> str:
    """answer(mix, drawings) -> the batch; see Exercise 2."""
    for mix, drawings, wanted in (("1:1", 8, 16), ("0:1", 8, 8), ("1:4", 8, 10), ("3:2", 8, 20)):
        given = call(answer, mix, drawings, number=2, task="return the size of the batch")
        if isinstance(given, bool) or given != wanted:
            own = int(mix.split(":")[1])
            raise NotYet(
                f"Exercise 2: {drawings} drawings at {mix} come with {wanted - drawings} reading examples,"
                f" {own} drawings to a share: a batch of {wanted}, yours is {given!r}"
            )
        if not isinstance(given, int):
            raise NotYet(f"Exercise 2: --batch takes a whole number, yours is {given!r}; divide with //")
    try:
        given = answer("1:3", 8)
    except ValueError:
        return "Exercise 2: right. Each run will see the same number of drawings."
    except Exception as error:
        raise NotYet(f"Exercise 2: raise a ValueError for 8 drawings at 1:3, not {type(error).__name__}") from None
    raise NotYet(f"Exercise 2: 8 drawings cannot be shared out at 1:3; raise a ValueError, you give {given!r}")
