"""Drawing: a seed's numbers are its own, a path's too, and they follow the distribution that the parameter names."""

import numpy as np
import pytest
from flax import nnx
from scipy import stats

from clipjax.models.clip import CLIP
from clipjax.models.initialise import draw
from clipjax.models.layers import constant, normal, param, uniform


class Three(nnx.Module):
    """One parameter of each kind."""

    def __init__(self):
        self.gain = param(constant(0.5), 7)
        self.kernel = param(normal(0.02), 100, 200)
        self.bias = param(uniform(0.3), 20_000)


@pytest.fixture(scope="module")
def three():
    return nnx.state(nnx.eval_shape(Three))


def test_numbers_follow_their_distribution(three):
    drawn = draw(three, 0)
    assert {leaf.dtype for leaf in drawn.values()} == {np.dtype("float32")}
    assert (drawn["gain"] == 0.5).all() and drawn["gain"].shape == (7,)
    assert stats.kstest(drawn["kernel"].ravel(), stats.norm(scale=0.02).cdf).pvalue > 0.01
    assert stats.kstest(drawn["bias"], stats.uniform(-0.3, 0.6).cdf).pvalue > 0.01


def test_a_seed_gives_its_own_model(small):
    state = nnx.state(nnx.eval_shape(lambda: CLIP(small)), nnx.Param)
    one, same, other = (draw(state, seed) for seed in (0, 0, 1))
    for path, leaf in one.items():
        assert np.array_equal(leaf, same[path]), path
        drawn = path.endswith(("kernel", "embedding", "fc/bias", "proj/bias"))
        assert drawn != np.array_equal(leaf, other[path]), path


def test_parameters_of_equal_shape_and_distribution_differ(small):
    drawn = draw(nnx.state(nnx.eval_shape(lambda: CLIP(small)), nnx.Param), 0)
    layers = drawn["text/blocks/mlp/fc/kernel"]
    assert not np.array_equal(layers[0], drawn["text/last/mlp/fc/kernel"])
    assert not np.array_equal(drawn["image/blocks/mlp/fc/kernel"][:, :8, :8], layers[:, :8, :8])
