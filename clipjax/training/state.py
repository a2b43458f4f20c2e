"""The train state: one pytree that is saved, sharded, donated and compared as a whole."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from clipjax.bundle import abstract_module
from clipjax.config import Config
from clipjax.models.initialise import draw
from clipjax.parallel.sharding import shardings
from clipjax.training.freeze import split
from clipjax.training.half_storage import at_rest, store_again
from clipjax.training.loss_scale import LossScale, first_loss_scale
from clipjax.trees import unflatten


class State(NamedTuple):
    """What a step takes and gives. `skipped` counts the steps whose gradient was not finite."""

    step: Any  # [] int32, steps done
    params: Any  # nested dict of float32 arrays, those of the text tower as parallel/precision.py says
    batch_stats: Any  # nested dict, empty for vision transformers
    opt_state: Any  # of the parameters that are trained
    skipped: Any  # [] int32
    loss_scale: LossScale | None = None  # in float16 alone


def init_state(config: Config, optimizer, mesh) -> State:
    """A fresh state laid out on the mesh; the numbers depend on `config.seed` alone, not on the mesh."""
    _, *halves = abstract_module(config)
    params, stats = (unflatten(draw(half, config.seed)) for half in halves)
    return fresh_state(config, optimizer, mesh, params, stats)


def fresh_state(config: Config, optimizer, mesh, params, batch_stats) -> State:
    """The state of step 0 with these parameters and running averages (nested dicts of float32 host arrays)."""
    abstract = abstract_state(config, optimizer, mesh)
    zeros = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), abstract)  # moments and counts start at zero
    start = zeros._replace(params=params, batch_stats=batch_stats, loss_scale=first_loss_scale(config))
    return jax.tree.map(_place, start, abstract)


def abstract_state(config: Config, optimizer, mesh) -> State:
    """The state's shapes, dtypes and shardings, without memory."""
    _, params, stats = abstract_module(config)
    params, stats = nnx.to_pure_dict(params), nnx.to_pure_dict(stats)
    zero = jax.ShapeDtypeStruct((), jnp.int32)
    opt_state = jax.eval_shape(optimizer.init, split(config, params)[0])
    scale = jax.eval_shape(lambda: first_loss_scale(config))
    shapes = at_rest(config, State(zero, params, stats, opt_state, zero, scale))
    places = shardings(shapes, mesh)
    return jax.tree.map(
        lambda leaf, place: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place), shapes, places
    )


def restate(config: Config, optimizer, mesh, state: State) -> State:
    """A state that was stored in other dtypes, in those of the config, rounded to the nearest."""
    places = jax.tree.map(lambda leaf: leaf.sharding, abstract_state(config, optimizer, mesh))
    stored = store_again(config, {"params": state.params, "opt_state": state.opt_state})
    scale = state.loss_scale if config.precision == "float16" else None
    state = state._replace(**stored, loss_scale=scale or first_loss_scale(config))
    return jax.device_put(state, places)


def _place(array, place):
    """A host array, which every process has whole, on the mesh, in the dtype of `place`."""
    array = _to_copy(np.asarray(array).astype(place.dtype, copy=False))
    return jax.make_array_from_callback(array.shape, place.sharding, lambda index: array[index])


def _to_copy(array):
    """The array in memory that begins at no multiple of 64 bytes.

    At one, XLA on CPU takes NumPy's memory for its own array, which cannot be donated: the first step would make it
    anew, behind its scratch memory, and glibc would find that too small for the next step, which needs some bytes more.
    """
    if array.ctypes.data % 64:
        return array
    memory = np.empty(array.nbytes + array.itemsize, np.uint8)
    moved = memory[array.itemsize * (memory.ctypes.data % 64 == 0) :][: array.nbytes].view(array.dtype)
    moved = moved.reshape(array.shape)
    moved[...] = array
    return moved
