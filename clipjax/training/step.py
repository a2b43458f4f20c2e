"""The training step: a pure function (state, batch) -> (state, metrics)."""

import math

import jax
import jax.numpy as jnp

from clipjax.config import Config
from clipjax.data.batch import Batch
from clipjax.parallel.mesh import traced_on
from clipjax.training.accumulation import make_loss_and_gradient
from clipjax.training.freeze import join, split
from clipjax.training.optimizer import learning_rate
from clipjax.training.state import State

MAX_LOG_SCALE = math.log(100.0)  # paper, 2.5: more than 100 was found to be unstable


def make_step(config: Config, optimizer, graph, mesh):
    """The step of a config: AdamW on the contrastive loss of the global batch.

    What the config freezes stays as it is. A step whose loss or gradient is not finite leaves parameters and moments as
    they are and is counted. Metrics (float32 scalars unless said): loss, recall_at_1, logit_scale, gradient_norm,
    parameter_norm, learning_rate, skipped_steps int32, finite bool, and gradient_finite [leaves] bool in the order of
    the tree of trained parameters.
    """
    schedule = learning_rate(config)
    loss_and_gradient = make_loss_and_gradient(config, graph, mesh)

    def step(state: State, batch: Batch) -> tuple[State, dict]:
        before, frozen = split(config, state.params)
        with traced_on(mesh):
            found = loss_and_gradient(before, frozen, state.batch_stats, batch, state.step)
        loss, recall, stats, gradient = found
        squares = _squares(gradient)  # [leaves]; one that is not finite tells of an element that is not
        finite = jnp.isfinite(loss) & jnp.isfinite(squares).all()
        updates, opt_state = optimizer.update(gradient, state.opt_state, before)
        trained = jax.tree.map(jnp.add, before, updates)
        if config.loss.kind == "softmax":  # SigLIP's scale finds its own end, above 100
            trained["logit_scale"] = jnp.minimum(trained["logit_scale"], MAX_LOG_SCALE)
        trained, stats, opt_state = jax.tree.map(
            lambda new, old: jnp.where(finite, new, old),
            (trained, stats, opt_state),
            (before, state.batch_stats, state.opt_state),
        )
        params = join(trained, frozen)
        skipped = state.skipped + jnp.where(finite, 0, 1)
        metrics = {
            "loss": loss,
            "recall_at_1": recall,
            "logit_scale": jnp.exp(state.params["logit_scale"]),
            "gradient_norm": jnp.sqrt(squares.sum()),
            "parameter_norm": jnp.sqrt(_squares(params).sum()),
            "learning_rate": schedule(state.step - state.skipped),
            "skipped_steps": skipped,
            "finite": finite,
            "gradient_finite": jnp.isfinite(squares),
        }
        return State(state.step + 1, params, stats, opt_state, skipped), metrics

    return step


def _squares(tree):
    """Sum of squares of each leaf, in the order of the tree: float32 [leaves]."""
    return jnp.stack([jnp.sum(jnp.square(leaf.astype(jnp.float32))) for leaf in jax.tree.leaves(tree)])
