"""The state: the same numbers on any mesh, and the shapes that were announced."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from clipjax.config import MeshConfig, resolve
from clipjax.parallel.mesh import make_mesh
from clipjax.training.optimizer import make_optimizer
from clipjax.training.state import _place, abstract_state, init_state
from clipjax.trees import flatten


@pytest.fixture
def config(tiny):
    return resolve(tiny)


def test_the_start_does_not_depend_on_the_mesh(config):
    optimizer = make_optimizer(config)
    one = init_state(config, optimizer, make_mesh(MeshConfig(1, 1, 1), jax.devices()[:1]))
    other = init_state(config, optimizer, make_mesh(MeshConfig(2, 2, 2)))
    for path, leaf in flatten(one).items():
        np.testing.assert_array_equal(leaf, flatten(other)[path], path)


def test_another_seed_is_another_start(config):
    mesh, optimizer = make_mesh(MeshConfig(1, 1, 1), jax.devices()[:1]), make_optimizer(config)
    one = init_state(config, optimizer, mesh)
    other = init_state(dataclasses.replace(config, seed=1), optimizer, mesh)
    assert not np.array_equal(one.params["image"]["patch"]["kernel"], other.params["image"]["patch"]["kernel"])


@pytest.mark.parametrize("half", [False, True])
def test_the_announced_shapes_and_places_are_the_real_ones(tiny, half):
    if half:
        tiny.precision, tiny.optimizer.moments_dtype, tiny.model.text.weights_dtype = "float16", "float16", "bfloat16"
    config = resolve(tiny)
    mesh, optimizer = make_mesh(MeshConfig(2, 2, 2)), make_optimizer(config)
    real, announced = flatten(init_state(config, optimizer, mesh)), flatten(abstract_state(config, optimizer, mesh))
    assert list(real) == list(announced)
    for path, leaf in real.items():
        said = announced[path]
        assert (leaf.shape, leaf.dtype, leaf.sharding) == (said.shape, said.dtype, said.sharding), path


@pytest.mark.parametrize("offset", [0, 4, 64])
@pytest.mark.parametrize(
    ("shape", "dtype"), [((300, 7), np.float32), ((64,), jnp.bfloat16), ((), np.int32), ((0, 3), np.float32)]
)
def test_a_fresh_state_owns_its_memory(offset, shape, dtype):
    """XLA on CPU would work on NumPy's memory where it begins at a multiple of 64, and could not donate it."""
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    memory = np.zeros(size + 256, np.uint8)
    begin = -memory.ctypes.data % 64 + offset
    array = memory[begin : begin + size].view(dtype).reshape(shape)
    array[...] = np.arange(array.size).reshape(shape)
    mesh = make_mesh(MeshConfig(1, 1, 1), jax.devices()[:1])
    sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
    placed = _place(array, jax.ShapeDtypeStruct(shape, dtype, sharding=sharding))
    np.testing.assert_array_equal(placed, array)
    assert placed.dtype == dtype and placed.sharding == sharding
    assert not 0 <= placed.unsafe_buffer_pointer() - memory.ctypes.data < memory.size
