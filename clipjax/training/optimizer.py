"""AdamW with decay on weights only, a linear warm-up and a cosine to zero."""

import re

from clipjax.config import Config
from clipjax.training.layer_decay import layer_scales
from clipjax.trees import map_with_path

# Gains, biases, positions, the class token and the temperature do not decay (paper, 2.5; open_clip's trainer).
_NO_DECAY = re.compile(r"(bias|scale|positional_embedding|class_embedding)$")


def make_optimizer(config: Config):
    """The optax transformation of a config: global-norm clip if asked for, then AdamW (paper, Table 18 and 19).

    With layer_decay the whole update of a parameter, its weight decay too, is multiplied by the factor of its layer:
    that is AdamW with a learning rate a layer.
    """
    import optax

    options = config.optimizer
    adamw = optax.adamw(
        learning_rate(config), options.b1, options.b2, options.eps, weight_decay=options.weight_decay, mask=decays
    )
    clip = optax.clip_by_global_norm(options.clip_norm) if options.clip_norm else optax.identity()
    layers = _scale_layers(config) if options.layer_decay != 1 else optax.identity()
    return optax.chain(clip, adamw, layers)  # of one form, so that a resumed run may set what it had off


def learning_rate(config: Config):
    """The schedule `step -> rate`: linear over `warmup_steps`, starting above zero, then a cosine to 0."""
    import optax

    peak, warmup, total = config.optimizer.learning_rate, config.optimizer.warmup_steps, config.total_steps
    if not warmup:
        return optax.cosine_decay_schedule(peak, total)
    return optax.warmup_cosine_decay_schedule(peak / warmup, peak, warmup, total)


def decays(params) -> dict:
    """The tree with True for each parameter that weight decay applies to."""
    return map_with_path(lambda path, _: not _NO_DECAY.search(path), params)


def _scale_layers(config: Config):
    import jax
    import optax

    def scale(updates, _):
        return jax.tree.map(
            jax.numpy.multiply, updates, layer_scales(config.model, config.optimizer.layer_decay, updates)
        )

    return optax.stateless(scale)
