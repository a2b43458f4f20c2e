"""A run at an address (gs://, s3://): files pass through a local folder, checkpoints through the first process."""

import hashlib
import json
import pathlib
import shutil
import tempfile
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import jax
import numpy as np

from clipjax import checkpoints
from clipjax.config import Config
from clipjax.data import storage
from clipjax.errors import UserError
from clipjax.parallel.runtime import cache_directory


class StoredRun:
    """The local folder of a run at `url`, and what goes from there to the address, one thing after the other.

    config.json, metrics.jsonl, evaluations/ and tensorboard/ are fetched at the start and stored with every save and at
    the end; checkpoints as `StoredCheckpoints` says. Each process has a folder of its own; only the first stores.
    """

    def __init__(self, url: str):
        self.url = url.rstrip("/")
        name = f"{hashlib.sha256(self.url.encode()).hexdigest()[:16]}-{jax.process_index()}"
        self.folder = cache_directory() / "runs" / name
        shutil.rmtree(self.folder, ignore_errors=True)  # the address knows better than what an earlier start left
        self.folder.mkdir(parents=True)
        self._stored: dict[str, tuple] = {}
        self._thread = ThreadPoolExecutor(1)
        self._last: Future | None = None
        for name, file in storage.list_below(self.url).items():
            if name.startswith("checkpoints/"):
                (self.folder / "checkpoints").mkdir(exist_ok=True)  # that there are some is all that is asked here
            else:
                checkpoints.fetch_step({name: file}, self.folder)
                self._stored[name] = self._state(self.folder / name)

    def store_files(self) -> None:
        """Store what has changed since the last time, in the background."""
        self.later(self._store_files)

    def later(self, function, *arguments) -> None:
        """Call a function after all that was asked for before, in the background and on the first process only.

        Raises what the one before raised.
        """
        if jax.process_index() == 0:
            self.wait()
            self._last = self._thread.submit(function, *arguments)

    def wait(self) -> None:
        """Until all is stored. Raises UserError for what could not be."""
        last, self._last = self._last, None
        if last is not None:
            last.result()

    def _store_files(self) -> None:
        for path in sorted(self.folder.rglob("*")):
            name = path.relative_to(self.folder).as_posix()
            if path.is_file() and not name.endswith(".tmp") and self._stored.get(name) != self._state(path):
                state = self._state(path)  # before it is read: what is written meanwhile goes the next time
                storage.store(path, f"{self.url}/{name}")
                self._stored[name] = state

    @staticmethod
    def _state(path: pathlib.Path) -> tuple:
        stat = path.stat()
        return stat.st_size, stat.st_mtime_ns


class StoredCheckpoints:
    """`checkpoints.Checkpoints` at an address, in the same form.

    The first process gathers the state, writes a checkpoint to the local disk and stores it, its metadata last: what
    has metadata is complete. The newest `keep_checkpoints` and the best stay.
    """

    def __init__(self, run: StoredRun, config: Config):
        self._run, self._config, self._newest = run, config, None
        self._url = f"{run.url}/checkpoints"

    def latest_step(self) -> int | None:
        """The newest complete step, or None."""
        self._run.wait()
        self._newest = max(checkpoints.stored_steps(self._url), default=None)
        return self._newest

    def save(self, step: int, state: Any, score: float | None = None) -> None:
        """Start saving; returns as soon as the state may change. `score` (higher is better) decides what is best."""
        if step == self._newest:  # said to be complete: a kill while it is stored again would leave half of it
            return
        self._newest = step
        gathered = jax.tree.map(_gather, state)
        self._run.store_files()  # before the checkpoint: a run that goes on from it finds its metrics
        self._run.later(self._store, step, gathered, score)

    def config(self, step: int) -> Config:
        """The config that the state of a step was saved under."""
        with tempfile.TemporaryDirectory(dir=self._run.folder.parent) as folder:
            directory = pathlib.Path(folder, str(step))
            files = checkpoints.stored_steps(self._url)[step]
            checkpoints.fetch_step({checkpoints.LAST_STORED: files[checkpoints.LAST_STORED]}, directory)
            return checkpoints.config_of(directory)

    def restore(self, step: int, abstract_state: Any) -> Any:
        """The state of a step, laid out as `abstract_state` says, whatever mesh it was saved from."""
        with tempfile.TemporaryDirectory(dir=self._run.folder.parent) as folder:
            directory = pathlib.Path(folder, str(step))
            checkpoints.fetch_step(checkpoints.stored_steps(self._url)[step], directory)
            return _read(directory, abstract_state)

    def close(self) -> None:
        """Wait for the last save."""
        self._run.wait()

    def _store(self, step: int, state: Any, score: float | None) -> None:
        with tempfile.TemporaryDirectory(dir=self._run.folder.parent) as folder:
            directory = pathlib.Path(folder, str(step))
            _write(directory, self._config, step, state)
            if score is not None:
                (directory / "metrics").mkdir()
                (directory / "metrics/metrics").write_text(json.dumps({"score": score}))
            names = [path.relative_to(directory).as_posix() for path in directory.rglob("*") if path.is_file()]
            for name in sorted(names, key=lambda name: name == checkpoints.LAST_STORED):
                storage.store(directory / name, f"{self._url}/{step}/{name}")
        self._prune()

    def _prune(self) -> None:
        steps = checkpoints.stored_steps(self._url)
        kept = set(list(steps)[-self._config.keep_checkpoints :])
        scores = {step: self._score(files) for step, files in steps.items() if "metrics/metrics" in files}
        if scores:
            kept.add(max(scores, key=lambda step: (scores[step], step)))
        for step in steps.keys() - kept:
            storage.remove(f"{self._url}/{step}/{checkpoints.LAST_STORED}")  # first: what is left is no checkpoint
            storage.remove(f"{self._url}/{step}")

    def _score(self, files: dict) -> float:
        with tempfile.TemporaryDirectory() as folder:
            path = pathlib.Path(folder, "metrics")
            try:
                storage.fetch(files["metrics/metrics"], path)
            except OSError as error:
                raise UserError(f"{error}.") from None
            return json.loads(path.read_text())["score"]


def _gather(leaf: jax.Array) -> np.ndarray | None:
    """A whole array on the host of the first process; all processes call this, in the same order."""
    if not (leaf.is_fully_addressable or leaf.is_fully_replicated):
        from jax.sharding import NamedSharding, PartitionSpec

        everywhere = NamedSharding(leaf.sharding.mesh, PartitionSpec())
        leaf = jax.jit(lambda array: array, out_shardings=everywhere)(leaf)
    if jax.process_index():
        return None
    return np.array(leaf.addressable_data(0) if leaf.is_fully_replicated else leaf)


def _write(directory: pathlib.Path, config: Config, step: int, state: Any) -> None:
    """A checkpoint of host arrays, written by this process alone, in the form that `checkpoints` reads."""
    import orbax.checkpoint as ocp

    made = ocp.args.JsonSave(checkpoints.make_metadata(config, step))
    with _alone(ocp) as writer:
        writer.save(directory, ocp.args.Composite(metadata=made, state=ocp.args.PyTreeSave(checkpoints.present(state))))


def _read(directory: pathlib.Path, abstract_state: Any) -> Any:
    """The state of a checkpoint on this process's disk, each process placing its own parts."""
    import orbax.checkpoint as ocp

    checkpoints.check_resumable(directory)
    there = checkpoints.present(abstract_state)
    wanted = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), there)
    kinds = jax.tree.map(lambda leaf: ocp.RestoreArgs(restore_type=np.ndarray, dtype=leaf.dtype), there)
    items = ocp.args.Composite(state=ocp.args.PyTreeRestore(wanted, restore_args=kinds))
    try:
        with _alone(ocp) as reader:
            found = reader.restore(directory, items)["state"]
        if wrong := [leaf.shape for leaf, want in _pairs(found, wanted) if leaf.shape != want.shape]:
            raise ValueError(f"an array of another shape is in it: {wrong[0]}")
    except (ValueError, OSError, KeyError) as error:
        raise UserError(f"step {directory.name}: cannot be restored ({storage.first_line(error)}).") from None
    placed = jax.tree.map(
        lambda want, leaf: jax.make_array_from_callback(leaf.shape, want.sharding, lambda index: leaf[index]),
        there,
        found,
    )
    return abstract_state._replace(**placed)


def _pairs(one: Any, other: Any):
    return zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True)


def _alone(ocp):
    """An orbax checkpointer that waits for no other process."""
    me = jax.process_index()
    several = jax.process_count() > 1
    options = ocp.options.MultiprocessingOptions(
        primary_host=me, active_processes={me} if several else None, barrier_sync_key_prefix=f"alone{me}"
    )
    handler = ocp.CompositeCheckpointHandler(
        metadata=ocp.JsonCheckpointHandler(multiprocessing_options=options),
        state=ocp.PyTreeCheckpointHandler(multiprocessing_options=options),
        composite_options=ocp.CompositeOptions(multiprocessing_options=options),
    )
    return ocp.Checkpointer(handler, multiprocessing_options=options)
