"""The block against float64 numpy, and the stack against a plain loop over its layers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from clipjax.models.dropping import fold
from clipjax.models.layers import uniform
from clipjax.models.transformer import Block, BlockInit, run, stack, take_row
from clipjax.trees import flatten

N, T, W, HEADS, LAYERS = 3, 7, 16, 2, 4
INIT = BlockInit(*[uniform(0.5)] * 4)
OPTIONS = dict(activation="quick_gelu", init=INIT, dtype=jnp.float32)


@pytest.fixture(scope="module")
def x():
    return jnp.asarray(np.random.RandomState(0).randn(N, T, W), jnp.float32)


@pytest.fixture(scope="module")
def position():
    return jnp.asarray([0, 3, 6])


call = nnx.jit(lambda module, x: module(x))


def layer(blocks, index):
    """One layer of a stack as a block of its own."""
    stacked, last = blocks
    if index == LAYERS - 1:
        return last
    graph, state = nnx.split(stacked)
    return nnx.merge(graph, jax.tree.map(lambda leaf: leaf[index], state))


def block_in_numpy(p, x, heads, causal):
    """CLIP's block, one sequence and one head at a time, in float64; p: {path: array}."""
    p = {path: np.asarray(leaf, np.float64) for path, leaf in p.items()}

    def norm(x, name):
        deviation = x - x.mean(-1, keepdims=True)
        scaled = deviation / np.sqrt((deviation**2).mean(-1, keepdims=True) + 1e-5)
        return scaled * p[f"{name}/scale"] + p[f"{name}/bias"]

    out = []
    for sequence in np.asarray(x, np.float64):
        h, size = norm(sequence, "ln_1"), sequence.shape[1] // heads
        q, k, v = (h @ p["attention/qkv/kernel"][:, i] + p["attention/qkv/bias"][i] for i in range(3))
        mixed = np.zeros_like(h)
        for head in range(heads):
            own = slice(head * size, (head + 1) * size)
            scores = q[:, own] @ k[:, own].T / np.sqrt(size)
            if causal:
                scores[np.triu_indices(len(scores), 1)] = -np.inf
            weights = np.exp(scores - scores.max(-1, keepdims=True))
            mixed[:, own] = weights / weights.sum(-1, keepdims=True) @ v[:, own]
        sequence = sequence + mixed @ p["attention/out/kernel"] + p["attention/out/bias"]
        hidden = norm(sequence, "ln_2") @ p["mlp/fc/kernel"] + p["mlp/fc/bias"]
        hidden = hidden / (1 + np.exp(-1.702 * hidden))
        out.append(sequence + hidden @ p["mlp/proj/kernel"] + p["mlp/proj/bias"])
    return np.stack(out)


def with_random_parameters(module):
    """The module with no parameter at 0 or 1, so that a forgotten bias or gain shows."""
    graph, state = nnx.split(module)
    rng = np.random.RandomState(7)
    return nnx.merge(
        graph, jax.tree.map(lambda leaf: leaf + jnp.asarray(0.2 * rng.randn(*leaf.shape), jnp.float32), state)
    )


@pytest.mark.parametrize("causal", [False, True])
def test_block_equals_numpy(x, causal):
    block = with_random_parameters(Block(W, HEADS, causal=causal, **OPTIONS))
    expected = block_in_numpy(flatten(nnx.state(block)), x, HEADS, causal)
    np.testing.assert_allclose(call(block, x), expected, rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize("causal", [False, True])
def test_row_of_a_block_is_that_row_of_all_its_tokens(x, position, causal):
    block = with_random_parameters(Block(W, HEADS, causal=causal, **OPTIONS))
    whole = call(block, x)
    np.testing.assert_allclose(block.row(x, position), take_row(whole, position), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(block.row(x, 2), whole[:, 2], rtol=1e-5, atol=1e-5)


def keys_of_rows():
    return fold(jnp.broadcast_to(jax.random.key(0), N), jnp.arange(N))


def test_row_of_a_block_that_drops_is_that_row_of_all_its_tokens(x, position):
    block = with_random_parameters(Block(W, HEADS, causal=True, dropout=0.3, **OPTIONS))
    whole = nnx.jit(lambda module, x, keys: module(x, keys))(block, x, keys_of_rows())
    assert np.abs(whole - call(block, x)).max() > 0.1  # without keys nothing is left out
    np.testing.assert_allclose(block.row(x, position, keys_of_rows()), take_row(whole, position), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(block.row(x, 2, keys_of_rows()), whole[:, 2], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("remat", ["none", "block"])
def test_each_layer_of_a_stack_drops_by_a_key_of_its_own(x, position, remat):
    blocks, last = map(with_random_parameters, stack(LAYERS, W, HEADS, causal=True, dropout=0.3, **OPTIONS))
    dropping = nnx.jit(lambda blocks, last, x, keys: run(blocks, last, x, position, keys=keys, remat=remat))
    found, expected = dropping(blocks, last, x, keys_of_rows()), x
    for index in range(LAYERS):
        one, keys = layer((blocks, last), index), fold(keys_of_rows(), index)
        expected = nnx.jit(lambda module, x, keys: module(x, keys))(one, expected, keys)
    np.testing.assert_allclose(found, take_row(expected, position), rtol=1e-4, atol=1e-4)


@pytest.fixture(scope="module")
def blocks(drawn):
    class Tower(nnx.Module):
        def __init__(self):
            self.blocks, self.last = stack(LAYERS, W, HEADS, causal=True, **OPTIONS)

    tower = drawn(Tower)
    return tower.blocks, tower.last


def test_layers_start_from_different_numbers(blocks):
    last = flatten(nnx.state(blocks[1]))
    for path, leaf in flatten(nnx.state(blocks[0])).items():
        assert leaf.shape == (LAYERS - 1, *last[path].shape)
        if path.endswith("kernel") or path.startswith("mlp"):
            assert len(np.unique([*leaf.ravel(), *last[path].ravel()])) > 0.9 * LAYERS * last[path].size, path


def value_and_gradients(blocks, x, position, **options):
    """Rows that `run` returns and the gradients of a sum of squares, in one jit."""
    graph, state = nnx.split(blocks)

    def squares(state, x):
        rows = run(*nnx.merge(graph, state), x, position, **options)
        return jnp.square(rows).sum(), rows

    (_, rows), gradients = jax.jit(jax.value_and_grad(squares, argnums=(0, 1), has_aux=True))(state, x)
    return rows, flatten(gradients)


@pytest.fixture(scope="module")
def scanned(blocks, x, position):
    return value_and_gradients(blocks, x, position)


def test_run_equals_a_loop_over_whole_layers(blocks, x, position, scanned):
    @nnx.jit
    def loop(blocks, x):
        for index in range(LAYERS):
            x = layer(blocks, index)(x)
        return take_row(x, position)

    np.testing.assert_allclose(scanned[0], loop(blocks, x), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("options", [dict(unroll=True), dict(remat="block")])
def test_unroll_and_remat_change_neither_values_nor_gradients(blocks, x, position, scanned, options):
    rows, gradients = value_and_gradients(blocks, x, position, **options)
    np.testing.assert_allclose(rows, scanned[0], rtol=1e-5, atol=1e-5)
    for path, leaf in scanned[1].items():
        largest = float(jnp.abs(leaf).max())
        np.testing.assert_allclose(gradients[path], leaf, rtol=1e-5, atol=1e-5 * largest, err_msg=path)


def test_a_single_layer_runs(blocks, x, position):
    none, only = stack(1, W, HEADS, causal=True, **OPTIONS)
    assert none is None and flatten(nnx.state(only)).keys() == flatten(nnx.state(blocks[1])).keys()
    rows = nnx.jit(lambda last, x: run(None, last, x, position))(blocks[1], x)
    np.testing.assert_allclose(rows, take_row(blocks[1](x), position), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("differentiate", [False, True])
def test_no_stack_of_parameters_is_copied(differentiate):
    """Temporary memory stays below one of them; the gradient is what it gives back."""
    graph, state = nnx.split(nnx.eval_shape(lambda: stack(9, 64, 2, causal=True, **OPTIONS)))
    x = jax.ShapeDtypeStruct((1, 4, 64), jnp.float32)

    def squares(state, x):
        return jnp.square(run(*nnx.merge(graph, state), x, 0)).sum()

    program = jax.jit(jax.grad(squares) if differentiate else squares).lower(state, x).compile()
    assert program.memory_analysis().temp_size_in_bytes < 0.5 * 4 * sum(leaf.size for leaf in jax.tree.leaves(state))


def test_remat_lowers_temporary_memory_even_if_unrolling_is_asked_for(blocks):
    graph, state = nnx.split(blocks)
    x = jax.ShapeDtypeStruct((64, T, W), jnp.float32)

    def temporary(**options):
        def squares(state, x):
            return jnp.square(run(*nnx.merge(graph, state), x, 0, **options)).sum()

        return jax.jit(jax.grad(squares)).lower(state, x).compile().memory_analysis().temp_size_in_bytes

    assert temporary(remat="block", unroll=True) < 0.8 * temporary()
