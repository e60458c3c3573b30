"""Frozen networks that judge pictures and reports. Nothing that train.py trains goes in here."""

import common.errors  # noqa: F401  Ctrl-C while torch is imported is a line
