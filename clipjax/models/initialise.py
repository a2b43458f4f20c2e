"""A fresh model's numbers, drawn on the host: the same for a seed on any machine and mesh."""

import os
import zlib
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from flax import nnx


def draw(variables: nnx.State, seed: int) -> dict[str, np.ndarray]:
    """{path: float32 array} for the variables (shapes suffice) of a module, as the `init` of each says.

    Every path has a random generator of its own, so that a parameter's numbers depend on nothing but the seed, its
    path and its shape. Stacked blocks are drawn at once, since the layers of a tower are drawn alike.
    """
    flat = (("/".join(map(str, keys)), variable) for keys, variable in nnx.to_flat_state(variables))
    with ThreadPoolExecutor(os.cpu_count()) as pool:  # NumPy draws without holding on to the interpreter
        drawn = {path: pool.submit(_array, variable, seed, path) for path, variable in flat}
    return {path: array.result() for path, array in drawn.items()}


def _array(variable, seed: int, path: str) -> np.ndarray:
    kind, size = variable.get_metadata()["init"]
    shape = variable.get_value().shape
    if kind == "constant":
        return np.full(shape, size, np.float32)
    generator = np.random.Generator(np.random.SFC64([seed, zlib.crc32(path.encode())]))
    if kind == "normal":
        array = generator.standard_normal(shape, np.float32)
    else:
        array = generator.random(shape, np.float32)
        array *= np.float32(2)
        array -= np.float32(1)
    array *= np.float32(size)
    return array
