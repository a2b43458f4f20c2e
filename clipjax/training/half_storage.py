"""How the train state lies at rest: moments and text weights in half precision if the config says so.

A step widens them to float32, does its maths there, and narrows the result by stochastic rounding: Adam is optax's,
and nothing but the rounding tells a half-precision run from a float32 one. The random bits of an array come from the
seed, the step and its path alone.

bfloat16 has float32's range and keeps moments as they are. float16 ends at 6e-8, where the square of a gradient of
2e-4 already lies: there the second moment is kept as its root, and both are multiplied by 2^12. Gradients from 1.5e-8
to 16 then have all 11 digits. Smaller ones lose digits but keep their mean, down to 2e-15; at larger ones both moments
stop at the largest number, and the update, their quotient, at about the learning rate.
"""

import dataclasses
import re
import zlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from clipjax.config import Config
from clipjax.parallel.precision import policy
from clipjax.training.keys import step_key
from clipjax.training.rounding import round_stochastically
from clipjax.trees import flatten, map_with_path

_MOMENT, _SECOND_MOMENT = re.compile(r"/(mu|nu)/"), re.compile(r"/nu/")
_FLOAT16_SCALE = 2.0**12  # of moments


def at_rest(config: Config, tree: Any) -> Any:
    """The tree of shapes with the dtypes that its arrays are stored in. `tree`: a State, or a dict with its names."""
    rules = policy(config)
    return map_with_path(lambda path, leaf: jax.ShapeDtypeStruct(leaf.shape, rules.stored(path, leaf.dtype)), tree)


def widen(tree: dict) -> dict:
    """{"params": …, "opt_state": …} as the step computes with them: what is stored in half precision as float32."""
    return map_with_path(_widened, tree)


def narrow(config: Config, tree: dict, step) -> dict:
    """{"params": …, "opt_state": …} as they are stored after `step` (int32 []), rounded stochastically."""
    rules, leaves = policy(config), flatten(tree)
    dtypes = {path: rules.stored(path, leaf.dtype) for path, leaf in leaves.items()}
    halved = {path: leaf for path, leaf in leaves.items() if dtypes[path] != leaf.dtype}
    bits = _random_bits(config.seed, step, {path: leaf.shape for path, leaf in halved.items()})

    def stored(path, leaf):
        if path not in halved:
            return leaf
        return round_stochastically(_for_range(path, leaf, dtypes[path]), dtypes[path], bits[path])

    return map_with_path(stored, tree)


def _random_bits(seed: int, step, shapes: dict[str, tuple[int, ...]]) -> dict:
    """{path: uint16 of that shape}, independent of each other; the two moments share the halves of 32-bit words."""
    words: dict[str, Any] = {_MOMENT.sub("/moments/", path): shape for path, shape in shapes.items()}
    if not words:
        return {}
    names = np.array([zlib.crc32(path.encode()) for path in words], np.uint32)
    keys = jax.vmap(jax.random.fold_in, (None, 0))(step_key(seed, "rounding", step), names)
    words = {path: jax.random.bits(keys[i], shape, jnp.uint32) for i, (path, shape) in enumerate(words.items())}
    return {
        path: (words[_MOMENT.sub("/moments/", path)] >> (16 if _SECOND_MOMENT.search(path) else 0)).astype(jnp.uint16)
        for path in shapes
    }


def stored_as(config: Config, saved: Config) -> Config:
    """The config with those dtypes of `saved` that decide how the state is stored."""
    text = dataclasses.replace(config.model.text, weights_dtype=saved.model.text.weights_dtype)
    optimizer = dataclasses.replace(config.optimizer, moments_dtype=saved.optimizer.moments_dtype)
    model = dataclasses.replace(config.model, text=text)
    return dataclasses.replace(config, precision=saved.precision, model=model, optimizer=optimizer)


def store_again(config: Config, tree: dict) -> dict:
    """{"params": …, "opt_state": …} that were stored in other dtypes, rounded to the nearest."""
    rules = policy(config)

    def stored(path, leaf):
        dtype = rules.stored(path, leaf.dtype)
        return leaf if dtype == leaf.dtype else _for_range(path, leaf, dtype).astype(dtype)

    return map_with_path(stored, widen(tree))


def _widened(path, leaf):
    if not jnp.issubdtype(leaf.dtype, jnp.floating) or leaf.dtype == jnp.float32:
        return leaf
    wide = leaf.astype(jnp.float32)
    if leaf.dtype == jnp.float16:
        wide = wide / _FLOAT16_SCALE
        wide = jnp.square(wide) if _SECOND_MOMENT.search(path) else wide
    return wide


def _for_range(path, leaf, dtype):
    """A float32 array as it is kept in the dtype, before rounding."""
    if dtype != jnp.float16:
        return leaf
    kept = jnp.sqrt(leaf) if _SECOND_MOMENT.search(path) else leaf
    limit = float(jnp.finfo(dtype).max)
    return jnp.clip(kept * _FLOAT16_SCALE, -limit, limit)
