"""The paper's tables: measures, results and pages. Nothing that training or sampling needs goes in here."""

import sys

STUDIES = ("attention", "autoencoder", "calibration", "editing", "prompt_gain")
NAME = sys.orig_argv[sys.orig_argv.index("-m") + 1].removeprefix("evaluation.") if sys.argv[:1] == ["-m"] else ""
if NAME in STUDIES:  # `python -m evaluation.NAME` comes here first
    print(f"error: python -m evaluation.{NAME}: has moved; type python -m studies.{NAME}", file=sys.stderr)
    sys.exit(2)
