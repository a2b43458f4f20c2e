"""The config of a run in its working directory: held against the one that it began with, and kept."""

import json
import pathlib

import jax

from clipjax.config import Config, as_json, from_json
from clipjax.data.files import replace_text
from clipjax.errors import UserError
from clipjax.progress import say
from clipjax.trees import flatten

_FIXED = ("model/", "freeze", "loss/kind")  # what the arrays of the state depend on


def check_claim(workdir: pathlib.Path, config: Config) -> None:
    """Hold a config against the one that the run in `workdir` began with.

    Raises UserError where what its arrays depend on has changed; other changes are said in a line.
    """
    path = workdir / "config.json"
    if not path.exists():
        return
    before = flatten(json.loads(as_json(from_json(path.read_text(), str(path)))))
    now = flatten(json.loads(as_json(config)))
    changed = [key for key in now if now[key] != before.get(key)]
    model = [
        f"{key} was {before.get(key)}, is {now[key]}"
        for key in changed
        if key.startswith(_FIXED) and key != "model/text/weights_dtype"
    ]
    if model and (workdir / "checkpoints").exists():
        raise UserError(
            f"{path}: the run began with another model, loss or freezing ({'; '.join(model)}). Give another --workdir."
        )
    if changed:
        say(
            "config changed since this run began: "
            + ", ".join(f"{key} {before.get(key)} -> {now[key]}" for key in changed)
        )


def claim(workdir: pathlib.Path, config: Config) -> None:
    """Write config.json. Raises UserError where that cannot be."""
    if jax.process_index() == 0:
        replace_text(workdir / "config.json", as_json(config) + "\n")
