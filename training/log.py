"""OUT/metrics.jsonl: what a training run measured, a line a step."""

from __future__ import annotations

import json
from pathlib import Path

from common.errors import UserError
from common.files import write_text


class TrainingLog:
    """A run that goes on after `step` drops what came after its checkpoint."""

    def __init__(self, out: Path, step: int) -> None:
        self.path, self.records = out / "metrics.jsonl", []
        for line in self.path.read_text().splitlines() if step and self.path.is_file() else ():
            try:
                self.records += [record for record in [json.loads(line)] if record["step"] <= step]
            except (ValueError, KeyError, TypeError):  # the line that a crash cut short
                continue
        write_text(self.path, "".join(json.dumps(record) + "\n" for record in self.records))

    def add(self, record: dict[str, float]) -> None:
        """record: "step" and what was measured at it. Raises UserError if the disk is full."""
        self.records.append(record)
        try:
            with open(self.path, "a") as file:
                file.write(json.dumps(record) + "\n")
        except OSError as error:
            raise UserError(f"{self.path}: not written ({error.strerror}); make room, then --resume") from error
