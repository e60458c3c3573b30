"""What looks at the answers of the workshop, one file a lesson. A check says in words what is wrong with an answer.

A check is a function named as its exercise: `# %% exercise: joint attention` is looked at by `joint_attention` of the
lesson's file. It returns one line for the reader who got it right and raises NotYet for all others.
"""

from __future__ import annotations

from collections.abc import Callable


class NotYet(Exception):  # noqa: N818 - a reader meets the name, and has made no error
    """An answer that is not right yet. The message is one sentence that says what is wrong; no traceback is shown."""

    def _render_traceback_(self) -> list[str]:
        """What a notebook shows in place of a traceback (IPython asks the exception for it)."""
        return [f"NotYet: {self}"]


def solved(answer: object, number: int, task: str) -> None:
    """Raises NotYet if the gap is still there. answer: a value, None or `...` where nothing was written yet."""
    if answer is None or answer is ...:
        raise NotYet(f"Exercise {number} is not solved yet: {task}")


def call(function: Callable, *arguments: object, number: int, task: str) -> object:
    """What the answer's function returns. Raises NotYet if it returns nothing or raises an error of its own."""
    try:
        answer = function(*arguments)
    except Exception as error:
        raise NotYet(f"Exercise {number}: your code stops with {type(error).__name__}: {error}") from None
    solved(answer, number, task)
    return answer
