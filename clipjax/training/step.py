"""The training step: a pure function (state, batch) -> (state, metrics)."""

import math

import jax
import jax.numpy as jnp

from clipjax.config import Config
from clipjax.data.batch import Batch
from clipjax.parallel.mesh import traced_on
from clipjax.training.accumulation import make_loss_and_gradient
from clipjax.training.freeze import join, split
from clipjax.training.half_storage import narrow, widen
from clipjax.training.loss_scale import adjust, is_overflow
from clipjax.training.optimizer import learning_rate
from clipjax.training.state import State

MAX_LOG_SCALE = math.log(100.0)  # paper, 2.5: more than 100 was found to be unstable


def make_step(config: Config, optimizer, graph, mesh):
    """The step of a config: AdamW on the contrastive loss of the global batch.

    What the config freezes stays as it is. A step whose loss or gradient is not finite leaves parameters and moments as
    they are and is counted. Metrics (float32 scalars unless said): loss, recall_at_1, logit_scale, gradient_norm,
    parameter_norm, learning_rate, skipped_steps int32, finite bool, overflow bool (not finite for a loss scale that has
    been halved now), gradient_finite [leaves] bool in the order of the tree of trained parameters, and in float16
    loss_scale, which this step used.
    """
    schedule = learning_rate(config)
    loss_and_gradient = make_loss_and_gradient(config, graph, mesh)

    def step(state: State, batch: Batch) -> tuple[State, dict]:
        stored, frozen = split(config, state.params)
        wide = widen({"params": stored, "frozen": frozen, "opt_state": state.opt_state})
        before, scale = wide["params"], state.loss_scale and state.loss_scale.scale
        with traced_on(mesh):
            found = loss_and_gradient(before, wide["frozen"], state.batch_stats, batch, state.step, scale)
        loss, recall, stats, gradient = found
        if scale is not None:
            gradient = jax.tree.map(lambda leaf: leaf / scale, gradient)
        squares = _squares(gradient)  # [leaves]; one that is not finite tells of an element that is not
        finite = jnp.isfinite(loss) & jnp.isfinite(squares).all()
        updates, opt_state = optimizer.update(gradient, wide["opt_state"], before)
        trained = jax.tree.map(jnp.add, before, updates)
        if config.loss.kind == "softmax":  # SigLIP's scale finds its own end, above 100
            trained["logit_scale"] = jnp.minimum(trained["logit_scale"], MAX_LOG_SCALE)
        after = narrow(config, {"params": trained, "opt_state": opt_state}, state.step)
        trained, stats, opt_state = jax.tree.map(
            lambda new, old: jnp.where(finite, new, old),
            (after["params"], stats, after["opt_state"]),
            (stored, state.batch_stats, state.opt_state),
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
            "overflow": is_overflow(state.loss_scale, finite),
            "gradient_finite": jnp.isfinite(squares),
        }
        loss_scale = state.loss_scale and adjust(state.loss_scale, finite)
        if loss_scale is not None:
            metrics["loss_scale"] = state.loss_scale.scale
        return State(state.step + 1, params, stats, opt_state, skipped, loss_scale), metrics

    return step


def _squares(tree):
    """Sum of squares of each leaf, in the order of the tree: float32 [leaves]."""
    return jnp.stack([jnp.sum(jnp.square(leaf.astype(jnp.float32))) for leaf in jax.tree.leaves(tree)])
