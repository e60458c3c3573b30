"""The text of reports: labelled and cleaned. Nothing that knows a model goes in here."""

import common.errors  # noqa: F401  Ctrl-C while torch is imported is a line
