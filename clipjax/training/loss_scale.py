"""The dynamic scale of the loss in float16: as large as gradients allow without overflow.

float16 has no number below 6e-8, so gradients on their way through the towers vanish unless the loss is multiplied.
Source: Micikevicius et al. 2018, section 3.2; the numbers are those of torch's GradScaler.
"""

from typing import Any, NamedTuple

import jax.numpy as jnp

from clipjax.config import Config

_PATIENCE = 2000  # good steps before the scale doubles
_LEAST, _START, _MOST = 1.0, 2.0**16, 2.0**24


class LossScale(NamedTuple):
    """The factor of the loss, and the good steps since it last changed."""

    scale: Any  # [] float32, a power of two
    good_steps: Any  # [] int32


def first_loss_scale(config: Config) -> LossScale | None:
    """That of step 0; None in a precision that needs none, which costs the state nothing."""
    if config.precision != "float16":
        return None
    return LossScale(jnp.float32(_START), jnp.int32(0))


def adjust(loss_scale: LossScale, finite) -> LossScale:
    """The scale after a step: half of it where the gradient was not finite, twice after 2,000 steps where it was."""
    scale, good = loss_scale.scale, jnp.where(finite, loss_scale.good_steps + 1, 0)
    grows = good >= _PATIENCE
    raised = jnp.where(grows, jnp.minimum(2 * scale, _MOST), scale)
    return LossScale(jnp.where(finite, raised, jnp.maximum(scale / 2, _LEAST)), jnp.where(grows, 0, good))


def is_overflow(loss_scale: LossScale | None, finite):
    """Whether a step that is not finite may be so for a scale too large: bool []. At the least scale none is."""
    return jnp.zeros((), bool) if loss_scale is None else ~finite & (loss_scale.scale > _LEAST)
