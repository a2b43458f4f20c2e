"""The ring: what it holds and sends. That its values are right is asserted in test_contrastive.py."""

import jax
import jax.numpy as jnp
from jax.extend import core

from clipjax.losses import contrastive_loss


def test_the_ring_holds_less_than_100_mib_a_device_for_32768_pairs(compiled_loss):
    assert compiled_loss("ring", 32768).memory_analysis().temp_size_in_bytes <= 100 * 2**20


def test_the_ring_never_gathers(compiled_loss):
    text = compiled_loss("ring", 64).as_text()
    assert "collective-permute" in text
    assert "all-gather" not in text and "all-to-all" not in text and "reduce-scatter" not in text


def test_every_hop_of_a_step_can_overlap_with_its_tiles(mesh_of):
    features = jax.ShapeDtypeStruct((64, 8), jnp.float32)
    step = jax.value_and_grad(
        lambda *x: contrastive_loss(*x, 10.0, mesh=mesh_of(data=4, fsdp=2), method="ring", block_size=4), argnums=(0, 1)
    )
    steps = [body for body in scan_bodies(jax.make_jaxpr(step)(features, features).jaxpr) if hops(body)]
    assert len(steps) == 2  # of the loss, of its gradient
    for body in steps:
        # What is sent was there when the step began, so that nothing has to wait for the tiles.
        assert all(value in body.invars for hop in hops(body) for value in hop.invars)


def hops(jaxpr):
    return [equation for equation in jaxpr.eqns if equation.primitive.name == "ppermute"]


def scan_bodies(jaxpr):
    """The jaxpr of every scan below, at any depth."""
    for equation in jaxpr.eqns:
        for value in jax.tree.leaves(list(equation.params.values()), is_leaf=is_jaxpr):
            if is_jaxpr(value):
                inner = getattr(value, "jaxpr", value)
                if equation.primitive.name == "scan":
                    yield inner
                yield from scan_bodies(inner)


def is_jaxpr(value):
    return isinstance(value, core.Jaxpr | core.ClosedJaxpr)
