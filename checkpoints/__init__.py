"""How checkpoints are read: files, their names, and a plan that accounts for every tensor. No command goes in here."""

import common.errors  # noqa: F401  Ctrl-C while torch is imported is a line
