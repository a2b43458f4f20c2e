"""Where a run begins: at random numbers, or at the weights of another checkpoint made to fit the config."""

import numpy as np

from clipjax import weights
from clipjax.bundle import halves, load
from clipjax.config import Config, ModelConfig, differences, preset, preset_names
from clipjax.errors import UserError
from clipjax.models.positions import fit_positions
from clipjax.progress import say
from clipjax.training.state import State, fresh_state, init_state

_FITTED = {"image.image_size", "text.context_length"}  # which positions are interpolated for


def check_start(config: Config) -> None:
    """Raise UserError where the config wants a checkpoint to start from and none is given; opens nothing."""
    if config.init_from == "":
        raise UserError(
            "init_from: this config fine-tunes, but no weights are named. "
            "Give --config.init_from=CHECKPOINT: a run's working directory, or weights of another program."
        )


def start_state(config: Config, optimizer, mesh) -> State:
    """The state of step 0: drawn from the seed, or the weights of `config.init_from`, whatever `clipjax.load` takes.

    Raises UserError, listing what differs, where those weights are of another model than the config's; another picture
    size or context length is fitted, and said.
    """
    if config.init_from is None:
        return init_state(config, optimizer, mesh)
    foreign = weights.is_foreign(config.init_from)  # those may not know their activation; a run's checkpoint does
    try:
        found = load(config.init_from, activation=config.model.activation if foreign else None).weights()
    except UserError as error:
        raise UserError(f"init_from: {error}") from None
    _check_model(config, found.model)
    arrays, lines = fit_positions(found.arrays, found.model, config.model)
    arrays, bias = _fit_bias(arrays, config)
    for line in (f"starting from {found.name}", *lines, *bias):
        say(f"init_from: {line}")
    return fresh_state(config, optimizer, mesh, *halves(config, arrays))


def _fit_bias(arrays: dict, config: Config) -> tuple[dict, list[str]]:
    """The arrays with the logit_bias that the config's loss wants, or without, and what to say of it."""
    if ("logit_bias" in arrays) == (config.loss.kind == "sigmoid"):
        return arrays, []
    if "logit_bias" in arrays:
        rest = {path: array for path, array in arrays.items() if path != "logit_bias"}
        return rest, ["its logit_bias is left out, loss.kind is softmax"]
    return {**arrays, "logit_bias": np.float32(-10)}, ["it has no logit_bias, which begins at -10"]


def _check_model(config: Config, found: ModelConfig) -> None:
    rows = {
        key: values for key, values in differences(found, config.model).items() if key not in _FITTED
    }  # preprocessing counts as well: features would silently be others
    if not rows:
        return
    said = "; ".join(f"model.{key} is {theirs}, the config says {ours}" for key, (theirs, ours) in rows.items())
    raise UserError(f"init_from: {config.init_from} is another model: {said}. Set {_remedy(found, rows)}.")


def _remedy(found: ModelConfig, rows: dict) -> str:
    """The preset that has those sizes, or the keys to set."""
    for name in preset_names():
        if not differences(preset(name), found).keys() - _FITTED:
            return f"model.preset={name!r}"
    return ", ".join(f"model.{key}={theirs!r}" for key, (theirs, _) in rows.items())
