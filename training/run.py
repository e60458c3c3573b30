"""What follows a step of a run, in its folder: the log, validation, pictures, saving, stopping."""

import contextlib
import json
import math
import shutil
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from archives.records import squares
from checkpoints.folders import CHECKPOINT
from common.clock import memory_used
from common.devices import dtype_name
from common.distributed import StopSignal, Team
from common.errors import UserError
from common.files import write_text
from data import Examples
from training.pictures import show
from training.recipe import DRAWING, KNOBS, Recipe
from training.state import State, Trained, write_state
from training.validation import Validation, prompt_gains
from weights import save_checkpoint

BEST = "checkpoint.best"  # in the folder of a run, beside CHECKPOINT


class TrainingLog:
    """OUT/metrics.jsonl, a line a step. A run that goes on after `step` drops what came after its checkpoint."""

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


def check_finite(step: int, loss: float, grad_norm: float) -> None:
    if not math.isfinite(loss) or not math.isfinite(grad_norm):
        raise UserError(
            f"step {step + 1}: the loss is {loss}, its gradient {grad_norm}; the last checkpoint is untouched: start"
            " from it with --init and a smaller --lr"
        )


@dataclass
class Run:
    """A run in its folder. `after` is called with every step."""

    out: Path
    team: Team
    recipe: Recipe
    trained: Trained
    examples: Examples
    validation: Validation | None  # of the main process
    state: State
    save_every: int  # steps
    profile: bool  # writes nothing

    def __post_init__(self) -> None:
        main = self.team.is_main
        self.stop = None if self.profile else StopSignal()
        self.code = 0  # not 0 after a signal, so that no script goes on to the next stage
        self.log = TrainingLog(self.out, self.state.step) if main and not self.profile else None
        self.began, self.first, self.seconds_before = time.monotonic(), self.state.step, self.state.seconds
        # tqdm's own rate follows the clock of the machine, which may be set back; ours is in the postfix.
        how = {"bar_format": "{l_bar}{bar}| {n_fmt}/{total_fmt}{postfix}", "dynamic_ncols": True, "disable": not main}
        self.bar = tqdm(total=self.recipe.steps, initial=self.first, **how)

    def after(self, record: dict[str, float]) -> bool:
        """A step is done, at which `record` was measured. Whether the run leaves here, as a signal asks."""
        state, steps = self.state, self.recipe.steps
        seconds = max(1e-6, time.monotonic() - self.began)  # a clock may stand still
        state.step, state.seconds = state.step + 1, self.seconds_before + seconds
        speed = (state.step - self.first) / seconds
        left, memory = tqdm.format_interval((steps - state.step) / speed), memory_used(self.team.device)
        words = f"loss {record['loss']:.4f}, {speed * self.recipe.batch:.1f} samples/s, {left} left, {memory:.1f} GB"
        self.bar.set_postfix_str(words)
        self.bar.update()
        if self.profile:
            return False
        done, leaving = state.step == steps, self.team.sum([float(self.stop.asked)])[0] > 0
        looking = done or state.step % (self.recipe.look_every or max(10, steps // 20)) == 0
        saving = done or leaving or state.step % self.save_every == 0
        if saving and hasattr(self.trained.optimizer, "consolidate_state_dict"):  # every process sends its shard
            self.trained.optimizer.consolidate_state_dict(to=0)
        average = self.trained.average if looking or saving else None  # what is shown and saved
        if self.team.is_main:
            with average.in_place() if average else contextlib.nullcontext():
                if looking:
                    record |= self.measure()
                self.log.add({"step": state.step, **record, "seconds": round(state.seconds, 2)})
                if looking:
                    show(self.trained.checkpoint, self.examples, self.log.records, self.out)
                if done:
                    self.measure_latents()
                if saving:
                    self.save(CHECKPOINT, more=lambda folder: write_state(folder, state, self.trained), keep_last=True)
        if leaving and not done:
            self.code = 128 + self.stop.number
            self.team.say(f"stopped after step {state.step} of {steps}, saved; go on with --resume")
        return leaving

    def measure(self) -> dict[str, float]:
        """The prompt gains of a stage that draws, and what --validate measures. The weights of the lowest loss go into
        OUT/checkpoint.best: for --weights and --init, not to go on training with."""
        examples = self.validation.examples if self.validation else self.examples
        found = prompt_gains(self.trained.checkpoint, examples) if examples.stage in DRAWING else {}
        if self.validation:
            found = self.validation.measure() | found
            best = self.state.best is None or found["validate_loss"] < self.state.best
            if best:
                self.state.best = found["validate_loss"]
                self.measure_latents()  # it may be the last one to be kept
                self.save(BEST, found)
            words = ", ".join(f"{name.removeprefix('validate_')} {value:.4f}" for name, value in found.items())
            tqdm.write(f"step {self.state.step}, validation: {words}{' (the best so far)' * best}")
        return found

    @torch.no_grad()
    def measure_latents(self) -> None:
        """In stage vae: scale and shift, so that normalised latents have mean 0 and variance 1 over 256 pictures. A
        decoder that trains alone leaves the latents as they are."""
        if self.examples.stage == "vae" and self.recipe.train != "decoder":
            vae, images = self.trained.checkpoint.vae, squares(self.examples.source, 256, self.recipe.size)[1]
            parts = torch.from_numpy(np.stack(images)).to(self.team.device).split(32)
            latents = torch.cat([vae.posterior(vae.preprocess(part))[0] for part in parts])
            vae.config.shift_factor, vae.config.scale_factor = latents.mean().item(), 1 / latents.std().item()
            print(f"latents: shift {vae.config.shift_factor:.4f}, scale {vae.config.scale_factor:.4f}")

    def save(self, name: str, found: dict[str, float] | None = None, **more: object) -> None:
        """The whole model into OUT/`name`, which serves as --weights and --init. With --ema it holds the average. Its
        history says what recipe made it, and what was `found`. more: see `save_checkpoint`."""
        stage, knobs, start = self.examples.stage, asdict(self.recipe).items(), self.trained.checkpoint
        entry = {"stage": stage} | {knob: value for knob, value in knobs if stage in KNOBS[knob].stages}
        entry |= {"steps": self.state.step, "seconds": round(self.state.seconds), "torch": torch.__version__}
        entry |= {"dtype": dtype_name(start.model.compute_dtype), **(found or {})}
        whole, originals = replace(start, history=[*start.history, entry]), self.trained.originals
        if self.state.best is None:  # nothing was validated: an earlier run in this folder left it
            shutil.rmtree(self.out / BEST, ignore_errors=True)
        save_checkpoint(self.out / name, whole, instead=originals, run=self.state.run, step=self.state.step, **more)
