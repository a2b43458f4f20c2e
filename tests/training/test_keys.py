"""Keys of a step: one for each seed, purpose and step."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np

from clipjax.training.keys import step_key


def test_each_seed_purpose_and_step_has_a_key_of_its_own():
    given = itertools.product((0, 1), ("dropping", "rounding"), (0, 1, 2))
    keys = [tuple(np.asarray(jax.random.key_data(step_key(*each))).tolist()) for each in given]
    assert len(set(keys)) == len(keys) == 12


def test_a_key_never_changes():
    """Pinned: a run that was begun with one version goes on with another as if nothing had happened."""
    found = jax.random.key_data(jax.jit(step_key, static_argnums=(0, 1))(0, "dropping", jnp.int32(7)))
    assert np.asarray(found).tolist() == [3017802270, 2200444501]
