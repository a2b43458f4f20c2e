"""What is stored in half precision: wide again for a step, unbiased, the same bits on any mesh."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from clipjax.config import Config, MeshConfig, preset
from clipjax.parallel.mesh import make_mesh
from clipjax.parallel.sharding import shardings
from clipjax.training.half_storage import narrow, store_again, widen
from clipjax.training.optimizer import make_optimizer
from clipjax.training.state import abstract_state
from clipjax.trees import flatten, unflatten

ONE, EIGHT = MeshConfig(1, 1, 1), MeshConfig(2, 2, 2)


def config_of(moments="float32", text="float32", seed=0):
    model = preset("tiny")
    model = dataclasses.replace(model, text=dataclasses.replace(model.text, weights_dtype=text, vocab_size=512))
    config = dataclasses.replace(Config(), total_steps=9000, model=model, seed=seed)
    return dataclasses.replace(config, optimizer=dataclasses.replace(config.optimizer, moments_dtype=moments))


def wide_state(config):
    """{"params", "opt_state"} of random float32 numbers; the second moments are positive."""
    full = dataclasses.replace(config, model=preset("tiny"))
    state = abstract_state(config_of(), make_optimizer(full), make_mesh(ONE, jax.devices()[:1]))
    rng = np.random.default_rng(0)

    def draw(leaf):
        number = rng.standard_normal(leaf.shape).astype(leaf.dtype)
        return jnp.asarray(np.abs(number))

    return {"params": jax.tree.map(draw, state.params), "opt_state": jax.tree.map(draw, state.opt_state)}


@pytest.mark.slow
def test_the_bits_do_not_depend_on_the_mesh():
    config = config_of("float16", "bfloat16")
    kept = ("text/token_embedding", "text/blocks/mlp/fc/kernel", "image/projection/kernel")
    tree = unflatten({path: leaf for path, leaf in flatten(wide_state(config)).items() if path.endswith(kept)})
    ends = []
    for mesh in (make_mesh(ONE, jax.devices()[:1]), make_mesh(EIGHT)):
        places = shardings(tree, mesh)
        store = jax.jit(functools.partial(narrow, config), out_shardings=places)
        ends.append(flatten(store(jax.device_put(tree, places), jnp.int32(7))))
    assert {leaf.dtype.name for leaf in ends[0].values()} == {"float16", "bfloat16", "float32"}
    for path, leaf in ends[0].items():
        np.testing.assert_array_equal(np.asarray(ends[1][path]), np.asarray(leaf), path)
    assert not ends[1]["opt_state/1/0/mu/text/token_embedding"].sharding.is_fully_replicated


def test_seed_step_and_path_each_draw_other_bits():
    config, other = config_of("bfloat16"), config_of("bfloat16", seed=1)
    tree = {"opt_state": {"mu": {"kernel": jnp.full(512, 1.001), "other/kernel": jnp.full(512, 1.001)}}}
    store = jax.jit(narrow, static_argnums=0)
    draws = [store(config, tree, 0), store(config, tree, 1), store(other, tree, 0)]
    rows = [np.asarray(leaf, np.float32) for draw in draws for leaf in draw["opt_state"]["mu"].values()]
    assert len({row.tobytes() for row in rows}) == 6
    again = store(config, tree, 1)["opt_state"]["mu"]["kernel"]
    np.testing.assert_array_equal(again.astype(jnp.float32), rows[2])


@pytest.mark.parametrize("size", [1e-7, 1e-5, 1e-3, 1.0])
@pytest.mark.parametrize("moments", ["bfloat16", "float16"])
def test_moments_of_any_usual_gradient_come_back_to_the_digits_of_their_dtype(moments, size):
    gradient = (np.random.default_rng(0).standard_normal(4096) * size).astype(np.float32)
    tree = {"opt_state": {"mu": {"kernel": jnp.asarray(gradient)}, "nu": {"kernel": jnp.asarray(gradient**2)}}}
    back = widen(jax.jit(narrow, static_argnums=0)(config_of(moments), tree, 3))["opt_state"]
    for kind, power in (("mu", 1), ("nu", 2)):
        found, expected = back[kind]["kernel"], tree["opt_state"][kind]["kernel"]
        assert found.dtype == jnp.float32
        usual = np.abs(gradient) > max(0.01 * size, 2e-8)  # where float16 begins to lose digits
        np.testing.assert_allclose(found[usual], expected[usual], rtol=2.1 * power * float(jnp.finfo(moments).eps))
        assert found.mean() == pytest.approx(float(expected.mean()), rel=1e-2, abs=1e-4 * size**power)


def test_in_float16_a_gradient_beyond_its_range_gives_no_infinite_moment():
    tree = {"opt_state": {"mu": {"kernel": jnp.asarray([-1e3, 1e9])}, "nu": {"kernel": jnp.asarray([1e6, 1e18])}}}
    back = widen(narrow(config_of("float16"), tree, 0))["opt_state"]
    np.testing.assert_allclose(back["mu"]["kernel"], [-16, 16], rtol=1e-3)
    np.testing.assert_allclose(back["nu"]["kernel"], [256, 256], rtol=1e-3)


def test_in_float32_everything_stays_the_same_array():
    config = config_of()
    tree = wide_state(config)
    for one, other in zip(jax.tree.leaves(tree), jax.tree.leaves(narrow(config, widen(tree), 0)), strict=True):
        assert one is other


@pytest.mark.parametrize("moments", ["bfloat16", "float16"])
def test_adam_with_half_moments_walks_where_adam_walks(moments):
    config = config_of(moments)
    adam = optax.adam(1e-2, b2=0.98)
    start = {"kernel": jnp.linspace(-1.0, 1.0, 2048)}
    target = jnp.linspace(0.5, -0.5, 2048) ** 3

    def walk(stored):
        def step(carry, number):
            params, moments = carry
            wide = widen({"opt_state": moments})["opt_state"]
            updates, after = adam.update({"kernel": params["kernel"] - target}, wide, params)
            after = narrow(config, {"opt_state": after}, number)["opt_state"] if stored else after
            return (optax.apply_updates(params, updates), after), None

        begin = adam.init(start)
        begin = narrow(config, {"opt_state": begin}, 0)["opt_state"] if stored else begin
        (params, _), _ = jax.jit(lambda begin: jax.lax.scan(step, begin, jnp.arange(100)))((start, begin))
        return np.asarray(params["kernel"])

    difference = walk(True) - walk(False)
    assert np.abs(difference).max() > 0
    assert np.abs(difference).max() < 0.05 and abs(difference.mean()) < 2e-3


def test_a_run_that_goes_on_in_other_dtypes_keeps_its_numbers():
    full, half, root = config_of(), config_of("bfloat16", "bfloat16"), config_of("float16")
    tree = wide_state(full)
    stored = store_again(half, tree)
    assert flatten(stored)["params/text/projection/kernel"].dtype == jnp.bfloat16
    there = store_again(root, stored)
    assert flatten(there)["opt_state/1/0/nu/text/projection/kernel"].dtype == jnp.float16
    back = flatten(store_again(full, there))
    for path, leaf in flatten(tree).items():
        assert back[path].dtype == leaf.dtype
        np.testing.assert_allclose(back[path], leaf, rtol=8e-3, atol=1e-9, err_msg=path)
