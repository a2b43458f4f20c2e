"""What is kept for the gradient changes memory, in the order that the names promise, and no number."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from clipjax.errors import UserError
from clipjax.models.layers import uniform
from clipjax.models.remat import check_platform
from clipjax.models.resnet import Stage
from clipjax.models.transformer import BlockInit, run, stack
from clipjax.trees import flatten

POLICIES = ("none", "dots", "block", "offload")


class Tower(nnx.Module):
    def __init__(self, remat):
        init = BlockInit(*[uniform(0.2)] * 4)
        options = dict(activation="quick_gelu", causal=False, init=init, dtype=jnp.float32)
        self.blocks, self.last = stack(5, 32, 2, **options)
        self.remat = remat

    def __call__(self, x):
        return run(self.blocks, self.last, x, 0, remat=self.remat)


def transformer(drawn, remat):
    return drawn(lambda: Tower(remat)), (32, 9, 32)


def resnet(drawn, remat):
    return drawn(lambda: Stage(5, 16, 8, shrink=False, dtype=jnp.float32, remat=remat, unroll=1)), (8, 8, 8, 16)


def differentiated(drawn, tower, remat):
    """(compiled value and gradient, its arguments) of the sum of squares of what a tower's blocks give."""
    module, shape = tower(drawn, remat)
    graph, *halves = nnx.split(module, nnx.Param, nnx.BatchStat)
    params, stats = map(nnx.to_pure_dict, halves)

    def squares(params, x):
        return jnp.square(nnx.merge(graph, params, stats)(x)).sum()

    arguments = params, jnp.asarray(np.random.RandomState(0).randn(*shape), jnp.float32)
    return jax.jit(jax.value_and_grad(squares, argnums=(0, 1))).lower(*arguments).compile(), arguments


@pytest.mark.slow
@pytest.mark.parametrize("tower", [transformer, resnet])
def test_policies_change_memory_as_they_say_and_no_gradient(drawn, tower):
    memory, results = {}, {}
    for remat in POLICIES:
        program, arguments = differentiated(drawn, tower, remat)
        memory[remat] = program.memory_analysis().temp_size_in_bytes
        results[remat] = program(*arguments)
    (value, gradients) = results["none"]
    for found, others in results.values():
        np.testing.assert_allclose(found, value, rtol=1e-5)
        for path, leaf in flatten(gradients).items():
            noise = 1e-5 * float(jnp.abs(leaf).max())
            np.testing.assert_allclose(flatten(others)[path], leaf, rtol=1e-4, atol=noise, err_msg=path)
    assert memory["none"] > 1.15 * memory["dots"], memory
    assert memory["dots"] > 1.15 * memory["block"], memory


def test_offload_is_refused_where_there_is_nothing_to_offload_to():
    with pytest.raises(UserError, match="remat: 'offload' moves .* Use 'block' or 'dots'"):
        check_platform("offload", "cpu")
    check_platform("offload", "tpu")
    check_platform("dots", "cpu")
