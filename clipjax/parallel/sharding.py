"""One ordered table says how every array of the train state is divided; moments follow their parameter."""

import re

from clipjax.trees import map_with_path

# First match wins. Paths are those of `clipjax.models.clip`; the optimizer's moments end in the same paths. What is
# stacked, below `blocks/`, has one more axis, of layers, before those that stand here.
# Large matrices lie divided along fsdp at rest, and by heads or hidden units along tensor. Vectors are replicated.
# I, O: channels in and out of a convolution, C: of the attention pool.
RULES = (
    (r"attention/qkv/kernel$", ("fsdp", None, "tensor")),  # [W, 3, W]
    (r"attention/qkv/bias$", (None, "tensor")),  # [3, W]
    (r"attention/out/kernel$", ("tensor", "fsdp")),  # [W, W]
    (r"mlp/fc/kernel$", ("fsdp", "tensor")),  # [W, 4W]
    (r"mlp/fc/bias$", ("tensor",)),  # [4W]
    (r"mlp/proj/kernel$", ("tensor", "fsdp")),  # [4W, W]
    (r"(attention/out|mlp/proj)/bias$", ()),
    (r"(stage\d/.*/conv2|stem/conv\d)/kernel$", (None, None, "fsdp", None)),  # [3, 3, I, O]
    (r"stage\d/.*/(conv[13]|shortcut/conv)/kernel$", ("fsdp", None)),  # [I, O]
    (r"pool/(query|key|value)/kernel$", ("fsdp", "tensor")),  # [C, C]
    (r"pool/(query|key|value)/bias$", ("tensor",)),  # [C]
    (r"pool/projection/kernel$", ("tensor", "fsdp")),  # [C, E]
    (r"pool/projection/bias$", ()),
    (r"(bn\d|shortcut/bn)/(scale|bias|mean|var)$", ()),
    (r"text/token_embedding$", (None, "fsdp")),  # [vocabulary, W]
    (r"(image|text)/projection/kernel$", ("fsdp", None)),  # [W, E]
    (r"image/patch/kernel$", (None, None, None, "fsdp")),  # [p, p, 3, W]
    (r"(class_embedding|positional_embedding)$", ()),
    (r"(ln_1|ln_2|ln_pre|ln_post|ln_final)/(bias|scale)$", ()),
    (r"(logit_scale|logit_bias|step|count|skipped)$", ()),
)


def spec_for(path: str, shape: tuple[int, ...], sizes: dict[str, int]):
    """The PartitionSpec of the array at `path`.

    An axis of the array that its mesh axis does not divide stays whole. Raises ValueError for a path that no rule
    names: an array nobody thought about must not silently be replicated.
    """
    from jax.sharding import PartitionSpec

    for pattern, axes in RULES:
        if re.search(pattern, path):
            axes = (None, *axes) if "/blocks/" in path and axes else axes
            kept = [axis if axis and shape[i] % sizes[axis] == 0 else None for i, axis in enumerate(axes)]
            return PartitionSpec(*kept)
    raise ValueError(f"{path} {shape}: no sharding rule names it")


def shardings(tree, mesh):
    """The tree with each array (or shape) replaced by its NamedSharding on the mesh."""
    from jax.sharding import NamedSharding

    sizes = dict(mesh.shape)
    return map_with_path(lambda path, leaf: NamedSharding(mesh, spec_for(path, leaf.shape, sizes)), tree)
