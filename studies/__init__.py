"""What was measured once, each by `python -m studies.NAME`. Nothing that training or sampling needs goes in here."""

import common.errors  # noqa: F401  Ctrl-C while torch is imported is a line
