"""Draw, read, edit and ask how sure the model is, in a browser: what sample.py and edit.py do, on a local page.

    pip install -e '.[demo]' && python demo.py [--weights DIR]

It answers to this machine alone (127.0.0.1), loads nothing from the net and sends nothing there. docs/demo.md describes
it. A research and teaching tool, not a medical device.
"""

import importlib.util
import os
import signal
import tempfile

from common import arguments
from common.errors import UserError, run
from common.sampling import DISCLAIMER, add_model_flags
from common.workers import ASKING


def main() -> None:
    words = "A page that draws, reads and edits chest X-rays, on this machine alone."
    parser = arguments.Parser(description=words, epilog=DISCLAIMER)
    parser.add_argument("--port", type=arguments.whole(0, 65535), default=7860, help="default 7860; 0: any free one")
    add_model_flags(parser.add_argument)
    args = parser.parse_args()
    if importlib.util.find_spec("gradio") is None:
        raise UserError("the page needs gradio, which is not installed; pip install -e '.[demo]'")
    for name in list(os.environ):  # others' settings of gradio; a proxy, which would be asked for this very page
        if name.startswith("GRADIO_") or name.lower().endswith("_proxy"):
            del os.environ[name]
    os.environ |= {"GRADIO_ANALYTICS_ENABLED": "False", "GRADIO_RUN_HISTORY": "False"}
    for number in ASKING:
        if signal.getsignal(number) != signal.SIG_IGN:  # as nohup has it
            signal.signal(number, leave)
    try:
        with tempfile.TemporaryDirectory(prefix="open-unix-", ignore_cleanup_errors=True) as folder:
            os.environ["GRADIO_TEMP_DIR"] = folder  # of uploads and pictures
            from page.server import serve  # gradio reads the environment when it is imported

            serve(args)
    except SystemExit as leaving:  # a drawing may still run in another thread: torch aborts where Python ends around it
        os._exit(leaving.code)


def leave(number: int, frame: object) -> None:
    for each in ASKING:
        signal.signal(each, signal.SIG_IGN)
    raise SystemExit(128 + number)


if __name__ == "__main__":
    run(main)
