"""What makes it fast, and what measures how fast. Nothing that changes a result goes in here."""

import common.errors  # noqa: F401  Ctrl-C while torch is imported is a line
