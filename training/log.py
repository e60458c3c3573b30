"""OUT/metrics.jsonl: what a training run measured, a line a step."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path

from common.errors import UserError
from common.files import write_text


class TrainingLog:
    """OUT/metrics.jsonl, a line a step; a run that goes on drops what came after its checkpoint."""

    def __init__(self, out: Path, step: int, tensorboard: bool) -> None:
        path = out / "metrics.jsonl"
        lines = path.read_text().splitlines() if step and path.is_file() else []
        records = []
        for line in lines:
            with contextlib.suppress(ValueError):  # the line that a crash cut short
                records.append(json.loads(line))
        self.records = [record for record in records if record["step"] <= step]
        write_text(path, "".join(json.dumps(record) + "\n" for record in self.records))
        self.file = open(path, "a")  # noqa: SIM115 (for the whole run)
        self.writer = None
        if tensorboard:
            try:
                from torch.utils.tensorboard import SummaryWriter
            except ImportError as error:
                raise UserError("--tensorboard: pip install tensorboard first, or leave it out") from error
            self.writer = SummaryWriter(out / "tensorboard")

    def add(self, record: dict[str, float], seconds: float) -> None:
        """record: "step" and what was measured at it; seconds: of the run so far."""
        record = record | {"seconds": round(seconds, 2)}
        self.records.append(record)
        try:
            self.file.write(json.dumps(record) + "\n")
            self.file.flush()
        except OSError as error:
            raise UserError(
                f"{self.file.name}: cannot be written ({error.strerror}); make room, then --resume"
            ) from error
        if self.writer:
            for name, value in record.items():
                self.writer.add_scalar(name, value, record["step"])
            self.writer.flush()  # left alone, it keeps the last two minutes to itself, and loses them at the end
