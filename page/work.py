"""Work that can be watched and stopped, and what goes wrong in it: one line, for the caller and in the terminal."""

import queue
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from html import escape

import gradio as gr
import numpy as np
import torch

from common.errors import UserError, explain
from sample import Watch
from weights import Checkpoint


class StoppedError(Exception):
    """Nobody waits for the drawing any more."""


def follow(
    work: Callable[[Watch], np.ndarray], checkpoint: Checkpoint, total: int, then: str = ""
) -> Iterator[tuple[np.ndarray | None, str]]:
    """Run a drawing in a thread: yields (a preview or None, how far it is) again and again, then (pictures, `then`).

    work: takes the watcher to hand to `sample.draw` or `edit.edit`. A preview is the estimate of the clean latents,
    decoded, five times a drawing. total: evaluations of the model. then: HTML, by default what it took. Once this
    generator is closed, the drawing ends at its next step.
    """
    news: queue.Queue = queue.Queue()
    done, started = 0, time.perf_counter()
    left = threading.Event()  # by Cancel, or with the browser tab
    vae, dtype = checkpoint.vae, checkpoint.model.compute_dtype

    def watch(clean: torch.Tensor, t: float) -> None:
        nonlocal done
        if left.is_set():
            raise StoppedError
        shown = done % max(1, total // 5) == 0
        preview = vae.postprocess(vae.decode(clean.to(dtype))).cpu().numpy() if shown else None
        done += 1
        news.put((preview, status(done, total)))

    def worker() -> None:
        try:
            news.put((work(watch), None))
        except Exception as error:
            news.put(error)

    threading.Thread(target=worker, daemon=True).start()
    try:
        while True:
            item = news.get()
            if isinstance(item, Exception):
                raise item
            pictures, doing = item
            yield pictures, doing or then or finished(started, checkpoint)
            if doing is None:
                return
    finally:
        left.set()


def said(html: str) -> str:
    return f'<div class="status">{html}</div>'


def status(done: int, total: int, what: str = "Drawing") -> str:
    return said(f'<progress max="{total}" value="{done}">{done}</progress><br>{what}: {done} of {total}')


def finished(began: float, checkpoint: Checkpoint) -> str:
    return said(f"Done in {time.perf_counter() - began:.1f} s on {checkpoint.model.vae2llm.weight.device}.")


class Page(gr.Blocks):
    """The one place where what goes wrong in a call becomes a line, whichever route it came by."""

    async def process_api(self, *values: object, **named: object) -> dict:
        try:
            return await super().process_api(*values, **named)
        except Exception as error:
            message = "Something unforeseen happened; the terminal that runs demo.py says more."
            if isinstance(error, (UserError, gr.Error)):
                message = textwrap.shorten(getattr(error, "message", str(error)), 300)  # gradio's quote all of a value
                error = UserError(message)
            explain(error)
            raise gr.Error(escape(message), duration=None, print_exception=False) from None

    async def preprocess_data(self, *values: object, **named: object) -> list:
        """The values of a call, before it is made. What gradio says of bad ones names its own insides."""
        try:
            return await super().preprocess_data(*values, **named)
        except (UserError, gr.Error):
            raise
        except Exception:
            wrong = "a value of this call is missing or of another kind; /gradio_api/info lists what it takes"
            raise UserError(wrong) from None
