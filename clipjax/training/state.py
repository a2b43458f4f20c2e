"""The train state: one pytree that is saved, sharded, donated and compared as a whole."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from clipjax.bundle import abstract_module, make_module
from clipjax.config import Config
from clipjax.parallel.sharding import shardings


class State(NamedTuple):
    """What a step takes and gives. `skipped` counts the steps whose gradient was not finite."""

    step: Any  # [] int32, steps done
    params: Any  # nested dict of float32 arrays
    batch_stats: Any  # nested dict, empty for vision transformers
    opt_state: Any
    skipped: Any  # [] int32


def init_state(config: Config, optimizer, mesh) -> State:
    """A fresh state laid out on the mesh; the numbers depend on `config.seed` alone, not on the mesh."""
    make = initializer(config, optimizer)
    key = jax.random.key(config.seed)
    # Drawing runs once: on CPU, optimising the program takes longer than it saves.
    options = {"xla_backend_optimization_level": 0} if jax.default_backend() == "cpu" else None
    places = jax.tree.map(lambda leaf: leaf.sharding, abstract_state(config, optimizer, mesh))
    return jax.jit(make, out_shardings=places, compiler_options=options)(key)


def abstract_state(config: Config, optimizer, mesh) -> State:
    """The state's shapes, dtypes and shardings, without memory."""
    _, params, stats = abstract_module(config)
    params, stats = nnx.to_pure_dict(params), nnx.to_pure_dict(stats)
    zero = jax.ShapeDtypeStruct((), jnp.int32)
    shapes = State(zero, params, stats, jax.eval_shape(optimizer.init, params), zero)
    places = shardings(shapes, mesh)
    return jax.tree.map(
        lambda leaf, place: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place), shapes, places
    )


def initializer(config: Config, optimizer):
    """The pure function `key -> State`."""

    def make(key):
        _, params, stats = nnx.split(make_module(config, key), nnx.Param, nnx.BatchStat)
        params, stats = nnx.to_pure_dict(params), nnx.to_pure_dict(stats)
        zero = jnp.zeros((), jnp.int32)
        return State(zero, params, stats, optimizer.init(params), zero)

    return make
