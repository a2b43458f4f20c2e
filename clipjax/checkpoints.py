"""Checkpoints: orbax directories that hold all that evaluation, conversion and serving need.

`checkpoints/STEP/` has two items: `metadata` (JSON: format_version, config, tokenizer, preprocessing, activation, model
step) and `state` (the whole train state). Reading one for evaluation takes metadata, parameters and running averages.
"""

import contextlib
import dataclasses
import glob
import hashlib
import json
import os
import pathlib
import shutil
import tempfile
from collections.abc import Iterator
from typing import Any, NamedTuple

from clipjax import text
from clipjax.config import Config, from_json
from clipjax.data import storage
from clipjax.data.files import is_address, local_path
from clipjax.errors import UserError
from clipjax.models.stacking import stack_layers, unstack_layers
from clipjax.parallel.runtime import cache_directory
from clipjax.trees import flatten, unflatten

FORMAT_VERSION = 2  # 1 had all layers of a tower in one stack: `read` takes it, `restore` does not
LAST_STORED = "metadata/metadata"  # at an address, where nothing can be renamed: a step that has it is complete


class Saved(NamedTuple):
    """What a checkpoint gives to those who only use the model."""

    path: pathlib.Path
    step: int | None  # None for a model that no run saved
    metadata: dict
    config: Config
    params: dict  # nested, numpy float32
    batch_stats: dict


class Checkpoints:
    """The checkpoints of a run: asynchronous saves of which the newest `keep` and the best-scored one stay."""

    def __init__(self, directory: pathlib.Path, config: Config):
        import orbax.checkpoint as ocp
        from orbax.checkpoint import checkpoint_managers as managers

        # Both are needed: without the policy the newest steps are pruned, without best_fn no score is stored.
        keep = [
            managers.LatestN(config.keep_checkpoints),
            managers.BestN(get_metric_fn=_score, n=1, keep_checkpoints_without_metrics=False),
        ]
        options = ocp.CheckpointManagerOptions(
            preservation_policy=managers.AnyPreservationPolicy(keep),
            best_fn=_score,
            best_mode="max",
            cleanup_tmp_directories=True,
        )
        self._manager = ocp.CheckpointManager(pathlib.Path(directory).absolute(), options=options)
        self._metadata = make_metadata(config)

    def latest_step(self) -> int | None:
        """The newest complete step, or None."""
        self._wait()
        return self._manager.latest_step()

    def save(self, step: int, state: Any, score: float | None = None) -> None:
        """Start saving; returns as soon as the state may change. `score` (higher is better) decides what is best."""
        import orbax.checkpoint as ocp

        if step in self._manager.all_steps():
            return
        state = ocp.args.StandardSave(present(state))
        items = ocp.args.Composite(metadata=ocp.args.JsonSave(self._metadata | {"step": step}), state=state)
        with _writing(self._manager.directory):
            self._manager.save(step, args=items, metrics=None if score is None else {"score": score}, force=True)

    def config(self, step: int) -> Config:
        """The config that the state of a step was saved under."""
        return config_of(pathlib.Path(self._manager.directory) / str(step))

    def restore(self, step: int, abstract_state: Any) -> Any:
        """The state of a step, laid out as `abstract_state` says, whatever mesh it was saved from."""
        import orbax.checkpoint as ocp

        directory = self._manager.directory / str(step)
        check_resumable(pathlib.Path(directory))
        try:
            items = ocp.args.Composite(state=ocp.args.StandardRestore(present(abstract_state)))
            return abstract_state._replace(**self._manager.restore(step, args=items)["state"])
        except (ValueError, OSError, KeyError) as error:
            raise UserError(
                f"{directory}: cannot be restored ({_first_line(error)}). Delete it to go on from the one before."
            ) from None

    def close(self) -> None:
        """Wait for the last save; raises UserError where it could not be written."""
        self._wait()
        self._manager.close()

    def _wait(self) -> None:
        with _writing(self._manager.directory):
            self._manager.wait_until_finished()


@contextlib.contextmanager
def _writing(place: Any) -> Iterator[None]:
    try:
        yield
    except (ValueError, OSError) as error:  # a full disk is a ValueError, too, which says so at the end of a long line
        raise UserError(
            f"{place}: a checkpoint cannot be written (… {_first_line(error, -80)}). Make room there and give the same "
            "command again; a run goes on from its last complete one."
        ) from None


def config_of(directory: pathlib.Path) -> Config:
    """The config in the metadata of a step's directory."""
    return from_json(json.dumps(_read_metadata(directory)["config"]), f"{directory}/metadata")


def check_resumable(directory: pathlib.Path) -> None:
    """Raise UserError for a checkpoint whose weights can be read, but whose whole state cannot."""
    if _read_metadata(directory)["format_version"] != FORMAT_VERSION:
        raise UserError(
            f"{directory}: an earlier version of this program wrote it, and its optimizer's state does not fit. "
            "Start anew from its weights with --config.init_from."
        )


def write(destination: str | pathlib.Path, config: Config, params: dict, batch_stats: dict) -> None:
    """A checkpoint of a model alone, at `destination` itself, whole or not at all.

    Raises UserError where something stands there already.
    """
    import orbax.checkpoint as ocp

    path = local_path(destination).absolute()
    if path.exists() and not (path.is_dir() and not any(path.iterdir())):
        raise UserError(f"{destination}: is there already. Give a new name.")
    state = {"params": params} | ({"batch_stats": batch_stats} if batch_stats else {})
    items = ocp.args.Composite(metadata=ocp.args.JsonSave(make_metadata(config)), state=ocp.args.StandardSave(state))
    try:
        with _writing(destination):
            path.parent.mkdir(parents=True, exist_ok=True)
            with ocp.Checkpointer(ocp.CompositeCheckpointHandler()) as writer:
                writer.save(path, items, force=True)
    finally:
        for rest in path.parent.glob(f"{glob.escape(path.name)}.orbax-checkpoint-tmp*"):
            shutil.rmtree(rest, ignore_errors=True)


def make_metadata(config: Config, step: int | None = None) -> dict:
    """What a checkpoint says of itself, enough to use it alone on another machine; `step` is None for a model alone."""
    shown = ("image_size", "mean", "std", "interpolation", "resize_mode")
    return {
        "format_version": FORMAT_VERSION,
        "step": step,
        "config": dataclasses.asdict(config),
        "tokenizer": {**text.identity(), "context_length": config.model.text.context_length},
        "preprocessing": {name: getattr(config.model.image, name) for name in shown},
        "activation": config.model.activation,
    }


def find(path: str | pathlib.Path) -> pathlib.Path:
    """The step directory that `path` means: itself, or the newest complete one of a run or of its `checkpoints`.

    Of a run at an address (gs://, s3://) that is a copy in the user's cache folder.
    """
    if is_address(path):
        return _find_stored(str(path).rstrip("/"))
    path = pathlib.Path(path).absolute()
    if not path.is_dir():
        raise UserError(f"{path}: no such directory. Give a run's working directory or one of its checkpoints/STEP.")
    if _complete(path):
        return path
    for folder in (path / "checkpoints", path):
        steps = sorted(
            (int(item.name), item) for item in _subfolders(folder) if item.name.isdigit() and _complete(item)
        )
        if steps:
            return steps[-1][1]
    raise UserError(f"{path}: no complete checkpoint is in it (looked for checkpoints/STEP). Train one first.")


def stored_steps(url: str) -> dict[int, dict[str, storage.Remote]]:
    """The complete steps in the folder at an address, rising, each with its files by their names."""
    steps: dict[int, dict[str, storage.Remote]] = {}
    for name, file in storage.list_below(url).items():
        step, _, inner = name.partition("/")
        if step.isdigit():
            steps.setdefault(int(step), {})[inner] = file
    return {step: steps[step] for step in sorted(steps) if LAST_STORED in steps[step]}


def fetch_step(files: dict[str, storage.Remote], directory: pathlib.Path) -> None:
    """Copy the files of a stored step into a new directory. Raises UserError for one that cannot be had."""
    for name, file in files.items():
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        try:
            storage.fetch(file, directory / name)
        except OSError as error:
            raise UserError(f"{error}. Check the network and the disk, or give another checkpoint.") from None


def _find_stored(url: str) -> pathlib.Path:
    parent, _, name = url.rpartition("/")
    steps = stored_steps(parent) if name.isdigit() else {}
    step = int(name) if name.isdigit() and int(name) in steps else None  # else a run may be called by a number
    if step is None:
        steps = stored_steps(f"{url}/checkpoints") or stored_steps(url)
        step = max(steps, default=None)
    if step is None:
        raise UserError(f"{url}: no complete checkpoint is in it (looked for checkpoints/STEP). Train one first.")
    made_of = "\n".join(sorted(map(repr, steps[step].values())))
    directory = cache_directory() / "checkpoints" / hashlib.sha256(made_of.encode()).hexdigest()[:16] / str(step)
    if not directory.exists():
        directory.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=directory.parent) as whole:
            fetch_step(steps[step], pathlib.Path(whole, str(step)))
            with contextlib.suppress(OSError):  # another process was first
                os.replace(pathlib.Path(whole, str(step)), directory)
    return directory


def read(path: str | pathlib.Path) -> Saved:
    """Metadata, parameters and running averages of the checkpoint that `path` means, on the host."""
    import jax
    import numpy as np
    import orbax.checkpoint as ocp

    directory = find(path)
    metadata = _read_metadata(directory)
    config = from_json(json.dumps(metadata["config"]), f"{directory}/metadata")
    try:
        with ocp.PyTreeCheckpointer() as reader:
            found = reader.metadata(directory / "state").item_metadata
            if found is None:
                raise ValueError("no array metadata in it")
            known = found.tree
            wanted = {name: known[name] for name in ("params", "batch_stats") if known.get(name)}
            wanted = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), wanted)
            kinds = jax.tree.map(lambda leaf: ocp.RestoreArgs(restore_type=np.ndarray), wanted)
            found = reader.restore(
                directory / "state", args=ocp.args.PyTreeRestore(wanted, restore_args=kinds, partial_restore=True)
            )
    except (ValueError, OSError, KeyError) as error:
        raise UserError(f"{directory}: the state cannot be read ({_first_line(error)}).") from None
    named = int(directory.name) if directory.name.isdigit() else None  # which older ones are known by
    params = jax.tree.map(lambda leaf: leaf.astype(np.float32, copy=False), found["params"])  # some may be bfloat16
    if metadata["format_version"] == 1:
        params = unflatten(stack_layers(unstack_layers(flatten(params))))
    return Saved(directory, metadata.get("step", named), metadata, config, params, found.get("batch_stats") or {})


def _read_metadata(directory: pathlib.Path) -> dict:
    file = directory / "metadata" / "metadata"
    try:
        metadata = json.loads(file.read_text())
    except (OSError, ValueError) as error:
        raise UserError(f"{file}: cannot be read as JSON ({_first_line(error)}).") from None
    _check_version(metadata, directory)
    return metadata


def _check_version(metadata: dict, directory) -> None:
    version = metadata.get("format_version")
    if version not in range(1, FORMAT_VERSION + 1):
        raise UserError(
            f"{directory}: format_version {version!r}, expected {FORMAT_VERSION}. Use the version that wrote it."
        )
    if not isinstance(step := metadata.get("step"), int | None):
        raise UserError(f"{directory}: step {step!r} in its metadata, a whole number expected. It is damaged.")


def present(state: Any) -> dict:
    """The fields of a State that there are: one that is None has no place in a checkpoint."""
    return {name: value for name, value in state._asdict().items() if value is not None}


def _complete(directory: pathlib.Path) -> bool:
    return (directory / "metadata" / "metadata").is_file() and (directory / "state").is_dir()


def _subfolders(folder: pathlib.Path) -> list[pathlib.Path]:
    return [item for item in folder.iterdir() if item.is_dir()] if folder.is_dir() else []


def _score(metrics: dict | None) -> float:
    return metrics["score"] if metrics else float("-inf")


def _first_line(error: BaseException, start: int = 0) -> str:
    return str(error).splitlines()[0][start:][:200] if str(error) else type(error).__name__
