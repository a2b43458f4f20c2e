"""The training step: a pure function (state, batch) -> (state, metrics)."""

import math

import jax
import jax.numpy as jnp
from flax import nnx

from clipjax.config import Config
from clipjax.data.batch import Batch
from clipjax.images.preprocess import normalize
from clipjax.losses import contrastive_loss_and_recall
from clipjax.training.freeze import join, set_modes, split
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

    def step(state: State, batch: Batch) -> tuple[State, dict]:
        before, frozen = split(config, state.params)
        (loss, (recall, stats)), gradient = jax.value_and_grad(loss_of, has_aux=True)(
            before, frozen, state.batch_stats, batch
        )
        squares = _squares(gradient)  # [leaves]; one that is not finite tells of an element that is not
        finite = jnp.isfinite(loss) & jnp.isfinite(squares).all()
        updates, opt_state = optimizer.update(gradient, state.opt_state, before)
        trained = jax.tree.map(jnp.add, before, updates)
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

    def loss_of(trained, frozen, batch_stats, batch: Batch):
        model = nnx.merge(graph, join(trained, frozen), batch_stats)
        set_modes(config, model)
        image = config.model.image
        pixels = normalize(batch.images, image.mean, image.std)  # [B, height, width, 3] float32 global
        features = model(pixels, batch.tokens)
        loss, recall = contrastive_loss_and_recall(
            features.image,
            features.text,
            features.logit_scale,
            mesh=mesh,
            block_size=config.loss.block_size,
            method=config.loss.method,
        )
        stats = nnx.to_pure_dict(nnx.state(model, nnx.BatchStat))
        return loss, (recall, stats)

    return step


def _squares(tree):
    """Sum of squares of each leaf, in the order of the tree: float32 [leaves]."""
    return jnp.stack([jnp.sum(jnp.square(leaf.astype(jnp.float32))) for leaf in jax.tree.leaves(tree)])
