"""The precision policy: which dtype each part of a run is computed in and stored in.

| what | dtype |
|---|---|
| matrix products and activations of the towers | `precision` |
| sums, logits, logsumexp, softmax, statistics of LayerNorm and BatchNorm, features, loss, gradients | float32 |
| Adam's moments of kernels and of the token embedding, at rest | `optimizer.moments_dtype` |
| the text tower's kernels and token embedding, at rest | `model.text.weights_dtype` |
| all other parameters and moments, running averages | float32 |

Kernels and the token embedding are 99.7 % of a model's numbers. Gains, biases, positions and the temperature stay
float32, which costs nothing and spares the gains: near 1 bfloat16 goes by steps of 0.8 %. What is stored in half
precision is made float32 for the maths of a step and rounded at random when it is put back (training/half_storage.py).
"""

import re
from typing import Any, NamedTuple

from clipjax.config import Config
from clipjax.errors import UserError

_TEXT_WEIGHT = re.compile(r"^params/text/.*(kernel|token_embedding)$")  # paths of the train state
_MOMENT = re.compile(r"^opt_state/.*\b(mu|nu)/.*(kernel|token_embedding)$")


class Policy(NamedTuple):
    """The dtypes of a config (NumPy's)."""

    compute: Any
    output: Any
    parameters: Any
    text_weights: Any
    moments: Any

    def stored(self, path: str, dtype: Any) -> Any:
        """The dtype that the array at `path` of the train state has at rest; `dtype` where the policy leaves it."""
        if _MOMENT.search(path):
            return self.moments
        return self.text_weights if _TEXT_WEIGHT.search(path) else dtype


def policy(config: Config) -> Policy:
    """The policy of a config."""
    import jax.numpy as jnp

    full = jnp.dtype("float32")
    names = config.precision, config.model.text.weights_dtype, config.optimizer.moments_dtype
    compute, text_weights, moments = map(jnp.dtype, names)
    return Policy(compute, full, full, text_weights, moments)


def check_platform(config: Config, platform: str) -> None:
    """Raise UserError where the devices of a JAX platform ("cpu", "gpu", "tpu") do not compute in the precision."""
    if config.precision == "float16" and platform == "tpu":
        raise UserError(
            "precision: float16 is not what TPUs multiply in. Give precision='bfloat16', which needs no loss scaling."
        )
