"""OUT/metrics.jsonl: what a training run measured, a line a step; and the same for TensorBoard."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path

from common.errors import UserError
from common.files import write_text


class TrainingLog:
    """A run that goes on after `step` drops what came after its checkpoint."""

    def __init__(self, out: Path, step: int, tensorboard: bool) -> None:
        path, self.records, self.writer = out / "metrics.jsonl", [], None
        for line in path.read_text().splitlines() if step and path.is_file() else ():
            with contextlib.suppress(ValueError):  # the line that a crash cut short
                self.records.append(json.loads(line))
        self.records = [record for record in self.records if record["step"] <= step]
        write_text(path, "".join(json.dumps(record) + "\n" for record in self.records))
        self.file = open(path, "a")  # noqa: SIM115 (for the whole run)
        if tensorboard:
            try:
                from torch.utils.tensorboard import SummaryWriter
            except ImportError as error:
                raise UserError("--tensorboard: pip install tensorboard first, or leave it out") from error
            self.writer = SummaryWriter(out / "tensorboard")

    def add(self, record: dict[str, float]) -> None:
        """record: "step" and what was measured at it. Raises UserError if the disk is full."""
        self.records.append(record)
        try:
            self.file.write(json.dumps(record) + "\n")
            self.file.flush()
        except OSError as error:
            raise UserError(f"{self.file.name}: not written ({error.strerror}); make room, then --resume") from error
        if self.writer:
            for name, value in record.items():
                self.writer.add_scalar(name, value, record["step"])
            self.writer.flush()  # left alone, it keeps the last two minutes to itself, and loses them at the end
