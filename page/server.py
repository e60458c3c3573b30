"""The server: who is answered, what a browser may do with the answers, and that nothing is fetched."""

import argparse
import contextlib
import sys
import time
from collections.abc import AsyncIterator, Callable

import gradio as gr
from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse

from common.errors import UserError, explain
from common.files import FAST_ADAPTER
from common.sampling import DISCLAIMER
from page.tabs import build
from studies.command import load_unix

HOSTS = ("127.0.0.1", "localhost")
LARGEST_UPLOAD, LARGEST_BODY = "16mb", 20_000_000  # bytes of any request
HEADERS = {  # the browser itself refuses whatever does not come from this page
    "content-security-policy": "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval';"
    " style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; font-src 'self' data:; worker-src 'self' blob:;"
    " frame-ancestors 'none'",
    "referrer-policy": "no-referrer",
}
STYLE = """
.gradio-container { max-width: 75rem !important; margin: 0 auto !important }
.disclaimer { border-left: 4px solid #d55e00; padding: .3rem .8rem; font-weight: 600 }
.status progress { width: 100%; height: .8rem }
.scroll { overflow-x: auto }
.tab-wrapper { overflow-x: clip }
@media (max-width: 40rem) { .tab-container button { padding-left: .3rem !important; padding-right: .3rem !important } }
"""


def serve(args: argparse.Namespace) -> None:
    """Answer on 127.0.0.1 until a signal ends the process. Raises UserError."""
    checkpoint = load_unix(args)

    @contextlib.asynccontextmanager
    async def guarded(app: object) -> AsyncIterator[None]:
        # Outermost: gradio puts its own middleware around what `app_kwargs` names, and answers preflights there.
        app.middleware_stack = Guard(app.middleware_stack)
        yield

    fast, quick = args.weights / FAST_ADAPTER, None
    if fast.is_file() and not args.adapter:
        try:
            quick = load_unix(argparse.Namespace(**{**vars(args), "adapter": fast}))
        except UserError as error:
            print(f"nothing is drawn while you type: {error}", file=sys.stderr)
    blocks = build(checkpoint, args.weights, quick).queue(max_size=32)
    try:
        _, address, _ = blocks.launch(
            server_name=HOSTS[0],
            server_port=args.port or None,
            quiet=True,
            max_file_size=LARGEST_UPLOAD,
            footer_links=["api"],
            enable_monitoring=False,
            prevent_thread_lock=True,
            theme=gr.themes.Default(font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"]),
            css=STYLE,
            app_kwargs={"lifespan": guarded},
        )
    except OSError:
        raise UserError(f"--port {args.port}: is taken, or not yours to take; give another, or 0 for any") from None
    sys.addaudithook(stay_home)
    print(f"{address}\n{DISCLAIMER}", flush=True)
    while True:
        time.sleep(1)  # the kernel may give a signal to a thread that draws: Python answers when this one wakes


def stay_home(event: str, values: tuple) -> None:
    """An audit hook (PEP 578): this process connects to nobody, whatever address stands where a file should, and
    whichever function of gradio would fetch it."""
    if event == "socket.getaddrinfo" or (event == "socket.connect" and values[1][0] not in HOSTS):
        raise PermissionError("this page fetches nothing")


class Guard:
    """Around the server: what it sends carries HEADERS, and it refuses who came by another name, and large bodies.

    Another name: a site can let its own name point to 127.0.0.1 (DNS rebinding), and its scripts could then ask this
    page for everything. The browser says which name it used (Host) and which page asks (Origin).
    """

    def __init__(self, app: Callable) -> None:
        self.app = app

    async def __call__(self, scope: dict, receive: Callable, send: Callable) -> None:
        if scope["type"] != "http":  # the server's start and end; gradio opens no websocket
            await self.app(scope, receive, send)
            return
        headers, received = Headers(scope=scope), 0
        host, origin = (",".join(headers.getlist(name)).lower() for name in ("host", "origin"))
        ours = [f"{name}:{scope['server'][1]}" for name in HOSTS]
        if host not in ours or origin not in ("", *(f"http://{name}" for name in ours)):  # "": it is no page that asks
            await PlainTextResponse("this page answers to 127.0.0.1 and localhost alone", 403)(scope, receive, send)
            return
        length = headers.get("content-length", "0")
        if not length.isdigit() or int(length) > LARGEST_BODY:
            await PlainTextResponse("too large", 413)(scope, receive, send)
            return

        async def guarded(message: dict) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(HEADERS)
            await send(message)

        async def counted() -> dict:  # a body of no declared length
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            return message if received <= LARGEST_BODY else {"type": "http.disconnect"}

        try:
            await self.app(scope, counted, guarded)
        except Exception as error:  # of a route of gradio's; it has been answered with 500
            explain(error)
