"""What a block keeps for its gradient, by the name that a config gives; the rest is computed again from its input."""

import contextvars

import jax
from jax import checkpoint_policies as policies
from jax.ad_checkpoint import checkpoint_name

from clipjax.errors import UserError

# What is dear to compute again for what it takes to keep. W: a token's width; a transformer block keeps 5 W a token
# beside its input. The hidden units of the MLP would be 4 W more to save one product of three; scores and softmax,
# activations and normalised values are large and next to nothing to compute.
QKV, MIXED, MIDDLE = "qkv", "mixed", "middle"  # 3 W, W and W: before and after attention, and between the two halves
CONVOLVED = "convolved"  # a ResNet's maps before BatchNorm and relu, which are the larger part of what it would keep
_KEPT = (QKV, MIXED, MIDDLE, CONVOLVED)

_POLICIES = {
    "block": policies.nothing_saveable,
    "dots": policies.save_only_these_names(*_KEPT),
    "offload": policies.save_and_offload_only_these_names(
        names_which_can_be_saved=[],
        names_which_can_be_offloaded=list(_KEPT),
        offload_src="device",
        offload_dst="pinned_host",
    ),
}


_names_matter = contextvars.ContextVar("names_matter", default=False)


def named(x, name):
    """x, which policies know by the name: one of the constants above."""
    return checkpoint_name(x, name) if _names_matter.get() else x  # no exporter knows a name for what it is, nothing


def checkpointed(block, remat: str):
    """The function `block`, of which no more is kept for the gradient than `remat` says.

    "none": what autodiff keeps. "block": the arguments alone. "dots": what the constants above name. "offload": the
    same, in the host's memory until the gradient needs it. Gradients are the same numbers whatever is kept.
    """
    if remat == "none":
        return block

    def with_names(*arguments):
        token = _names_matter.set(True)
        try:
            return block(*arguments)
        finally:
            _names_matter.reset(token)

    return jax.checkpoint(with_names, policy=_POLICIES[remat], prevent_cse=False)  # blocks run in a scan


def check_platform(remat: str, platform: str) -> None:
    """Raise UserError where the platform ("cpu", "gpu", "tpu") cannot do what `remat` says."""
    if remat == "offload" and platform not in ("gpu", "tpu"):
        raise UserError(
            f"remat: 'offload' moves what blocks keep to the host's memory, where on {platform} they are already. "
            "Use 'block' or 'dots'."
        )
