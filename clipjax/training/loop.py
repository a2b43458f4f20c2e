"""The run: the one place with side effects. Resumes by itself, saves when told to stop, evaluates as it goes."""

import os
import pathlib
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import numpy as np

from clipjax import checkpoints
from clipjax.bundle import Bundle, merge
from clipjax.config import Config, judge_devices, resolve
from clipjax.config.stages import stage_ends
from clipjax.data.files import is_address, local_path, make_folder
from clipjax.data.pipeline import batches
from clipjax.errors import UserError
from clipjax.evaluation.datasets import open_datasets
from clipjax.evaluation.suite import evaluate_live
from clipjax.models import remat
from clipjax.parallel import precision
from clipjax.parallel.mesh import local_rows, make_mesh
from clipjax.parallel.runtime import keep_freed_memory
from clipjax.progress import Meter, say
from clipjax.training.claim import check_claim, claim
from clipjax.training.feed import Feed
from clipjax.training.freeze import split
from clipjax.training.guard import before_and_after
from clipjax.training.half_storage import stored_as
from clipjax.training.optimizer import make_optimizer
from clipjax.training.program import compile_step
from clipjax.training.start import check_start, start_state
from clipjax.training.state import State, abstract_state, restate
from clipjax.training.stop_signal import StopSignal
from clipjax.training.stored import StoredCheckpoints, StoredRun
from clipjax.training.telemetry import Telemetry, read_metrics
from clipjax.trees import flatten


class Stopped(Exception):
    """A signal asked the run to stop; its state is saved and the same command goes on from there."""


def train(config: Any, workdir: str | os.PathLike) -> Bundle:
    """Run a config (a ConfigDict or a resolved Config) to its last step and return the model.

    `workdir` is a folder or an address (gs://, s3://). A run found there is resumed from its newest complete
    checkpoint, bit for bit. Raises UserError for mistakes in the config, and `Stopped` after SIGTERM or SIGINT, once
    the state is saved.
    """
    config = config if isinstance(config, Config) else resolve(config)
    judge_devices(config, jax.device_count())
    remat.check_platform(config.remat, jax.default_backend())
    precision.check_platform(config, jax.default_backend())
    check_start(config)
    stored = StoredRun(str(workdir)) if is_address(workdir) else None
    folder = stored.folder if stored else local_path(workdir).absolute()
    check_claim(folder, config)
    if jax.process_index() == 0:
        make_folder(folder / "checkpoints")
    return _Run(config, folder, stored).finish()


class _Run:
    """What the loop holds on to between steps."""

    def __init__(self, config: Config, workdir: pathlib.Path, stored: StoredRun | None):
        self.config, self.workdir, self.stored = config, workdir, stored
        self.place = stored.url if stored else workdir  # as people know it
        self.mesh = make_mesh(config.mesh)
        self.rows = local_rows(self.mesh, config.batch_size)
        self.optimizer = make_optimizer(config)
        if config.evaluate_every:
            open_datasets(config.data.evaluate)  # now, and not after the first hours of training
        self.saver = (
            StoredCheckpoints(stored, config) if stored else checkpoints.Checkpoints(workdir / "checkpoints", config)
        )
        step = self.saver.latest_step()
        self.first_step = step or 0
        if self.first_step > config.total_steps:
            raise UserError(
                f"total_steps: {config.total_steps:,}, but the run in {self.place} is at step {self.first_step:,}. "
                "Give more, or another --workdir."
            )
        self.data = batches(config, start_step=self.first_step, rows=self.rows)  # before the state: it can be wrong
        self.feed = self._feed()
        self.programs: dict[tuple[int, int], Any] = {}
        with ThreadPoolExecutor(1) as other:  # compiling takes longest: all else that a start needs is done meanwhile
            program = other.submit(self.program, self.first_step, self.feed.length)
            self.state = self._state(step)
            self.telemetry = Telemetry(workdir, config, self.first_step + 1)
            program.result()
        for begin in stage_ends(config.stages, config.total_steps):  # what cannot fit is said now, not after days
            if self.first_step < begin < config.total_steps:
                self.program(begin, min(self.feed.length, config.at(begin).model.text.context_length))
        claim(workdir, config)
        keep_freed_memory()
        self.bad_in_a_row = 0

    def program(self, step: int, length: int | None):
        """The compiled step of the stage of `step`, for texts of so many tokens (None: no step is left).

        Made when a batch first needs it, while the step before runs, and from the compilation cache ever after. A
        longer program that stood ready would do as well, but rounds otherwise: results would depend on what was ready.
        """
        if length is None:
            return None
        stage, later = self.config.stage_of(step), bool(self.programs)
        if (stage, length) not in self.programs:
            if later:
                size = self.config.at(step).model.image.image_size
                say(f"compiling the step for pictures of {size} pixels and texts of {length} tokens")
                keep_freed_memory()  # compiling needs a GB of its own, and cannot use what steps have freed
            self.programs[stage, length] = compile_step(self.config, self.optimizer, self.mesh, length, step)
            if later:
                keep_freed_memory()
        return self.programs[stage, length]

    def _state(self, step: int | None) -> State:
        """The state of a saved step, or a fresh one."""
        if step is None:
            return start_state(self.config, self.optimizer, self.mesh)
        say(f"resuming {self.place} at step {step:,}")
        before = stored_as(self.config, self.saver.config(step))  # dtypes of the state may have changed since
        state = self.saver.restore(step, abstract_state(before, self.optimizer, self.mesh))
        return state if before == self.config else restate(self.config, self.optimizer, self.mesh, state)

    def _feed(self) -> Feed:
        """The feed, its first batch read if there is a step to run; what is wrong with the data shows here."""
        steps = self.config.total_steps - self.first_step
        try:
            return Feed(self.config, self.mesh, self.rows, self.data, steps)
        except UserError:
            self.data.close()
            raise

    def finish(self) -> Bundle:
        """Run to the end; saves at the last step, and before it stops for a signal."""
        config, start = self.config, time.monotonic()
        meter = Meter("training", config.total_steps, "steps", done=self.first_step)
        pending = None
        try:
            with StopSignal() as stop:
                if config.init_from and config.evaluate_every and self.first_step == 0:
                    self.evaluate(0)  # what fine-tuning may destroy is measured before the first update
                for step in range(self.first_step, config.total_steps):
                    began = time.monotonic()
                    batch, stopping = self.feed.next(stop.asked)
                    if stopping:
                        pending = self.settle(pending, meter)
                        self.save(step)
                        raise Stopped(f"stopped at step {step:,}; the same command goes on from there")
                    waited = time.monotonic() - began
                    length = batch.tokens.shape[1]
                    try:
                        program = self.program(step, length)
                    except UserError:  # longer texts than before, which do not fit: what is done is kept
                        pending = self.settle(pending, meter)
                        self.save(step)
                        raise
                    self.state, metrics = program(self.state, batch)
                    ended = time.monotonic() if metrics["loss"].is_ready() else None  # as on a CPU
                    # The step before is read while this one runs, so that the device never waits for the host.
                    pending, ready = (step + 1, metrics, began, waited, length, ended), pending
                    self.settle(ready, meter)
                    if self.due(step + 1):
                        pending = self.settle(pending, meter)
                        self.keep(step + 1)
                self.settle(pending, meter)
            seconds = time.monotonic() - start
        finally:
            meter.close()
            self.saver.close()
            self.telemetry.close()
            if self.stored:
                self.stored.store_files()
                self.stored.wait()
            self.data.close()
        self.summary(seconds)  # not before the last checkpoint is complete
        return self.bundle(config.total_steps)

    def settle(self, pending, meter: Meter) -> None:
        """Wait for a step's metrics, write them, and stop the run if too many steps in a row were not finite."""
        if pending is None:
            return None
        step, metrics, began, waited, length, ended = pending
        metrics = jax.device_get(metrics)
        now = ended or time.monotonic()
        seconds = now - max(began, getattr(self, "settled", began))
        self.settled = now
        gradient_finite = metrics.pop("gradient_finite")
        finite, overflow = bool(metrics.pop("finite")), bool(metrics.pop("overflow"))
        values = {name: int(value) if name == "skipped_steps" else float(value) for name, value in metrics.items()}
        rate = self.config.batch_size / max(seconds, 1e-9)
        values |= {"pairs_per_second": rate, "data_wait_share": min(waited / max(seconds, 1e-9), 1.0)}
        values["text_length"] = length
        if (utilisation := self.telemetry.utilisation(rate, length, step - 1)) is not None:
            values["model_flops_utilisation"] = utilisation
        self.telemetry.record(step, values)
        meter.advance(1, f"loss {values['loss']:.4f} | {rate:,.0f} pairs/s")
        if overflow:  # which is how the scale of the loss is found, and no fault of the run
            say(f"step {step:,}: skipped, float16 overflowed at a loss scale of {values['loss_scale']:,.0f}; halved")
            return None
        self.bad_in_a_row = 0 if finite else self.bad_in_a_row + 1
        if not finite:
            self.report_bad(step, values["loss"], gradient_finite)
        return None

    def report_bad(self, step: int, loss: float, gradient_finite: np.ndarray) -> None:
        """Say which tensor of a skipped step was not finite first; raise UserError past the limit."""
        paths = list(flatten(split(self.config, self.state.params)[0]))
        bad = [path for path, good in zip(paths, gradient_finite, strict=True) if not good]
        first = f"the gradient of {bad[0]}" if bad else "the loss"
        say(f"step {step:,}: skipped, {first} is not finite (loss {loss:.4g})")
        if self.bad_in_a_row >= self.config.max_skipped_steps:
            raise UserError(
                f"step {step:,}: {self.bad_in_a_row} steps in a row were not finite, first {first} (loss {loss:.4g}). "
                "Lower optimizer.learning_rate, set optimizer.clip_norm, look at the data. Older checkpoints are kept."
            )

    def due(self, step: int) -> bool:
        """Whether something is to be kept after so many steps."""
        every, evaluate_every = self.config.checkpoint_every, self.config.evaluate_every
        last = step == self.config.total_steps
        return last or bool(every and step % every == 0) or bool(evaluate_every and step % evaluate_every == 0)

    def keep(self, step: int) -> None:
        """Evaluate if it is time, then save; the mean of the evaluation's results decides which checkpoint is best."""
        score = None
        every = self.config.evaluate_every
        if every and (step % every == 0 or step == self.config.total_steps):
            score = self.evaluate(step)
        self.save(step, score)

    def evaluate(self, step: int) -> float:
        """Evaluate the model as it is and write the report; returns the mean of the results."""
        results = evaluate_live(
            self.bundle(step),
            self.config.data.evaluate,
            self.workdir / f"evaluations/{step}",
            curves=read_metrics(self.workdir / "metrics.jsonl"),
            write=jax.process_index() == 0,
        )
        if step and (line := before_and_after(self.workdir, results)):
            say(line)
        return float(np.mean([result.value for result in results]))

    def save(self, step: int, score: float | None = None) -> None:
        """Start saving the state."""
        self.saver.save(step, self.state, score)

    def bundle(self, step: int) -> Bundle:
        """The live model; the state stays where it is."""
        halves = self.state.params, self.state.batch_stats
        copies = jax.tree.map(lambda leaf: (leaf + 0).astype(np.float32), halves)  # the next step donates the state
        return Bundle(
            merge(self.config, *copies), self.config, name=f"{self.place} step {step}", step=step, mesh=self.mesh
        )

    def summary(self, seconds: float) -> None:
        """Say at the end what was done and where it lies."""
        steps = self.config.total_steps - self.first_step
        rate = steps * self.config.batch_size / max(seconds, 1e-9)
        say(f"done: {steps:,} steps in {seconds:,.0f} s ({rate:,.0f} pairs/s); data: {self.data.report()}")
        say(f"checkpoints: {self.place}/checkpoints\nmetrics: {self.place}/metrics.jsonl")
        if self.config.evaluate_every:
            say(f"evaluations: {self.place}/evaluations")
