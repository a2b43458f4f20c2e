"""One ordered table says how every array of the train state is divided; moments follow their parameter."""

import re

from clipjax.trees import map_with_path

# First match wins. Paths are those of `clipjax.models.clip`; the optimizer's moments end in the same paths.
# Large matrices lie divided along fsdp at rest, and by heads or hidden units along tensor. Vectors are replicated.
# I, O: channels in and out of a convolution, C: of the attention pool.
RULES = (
    (r"blocks/attention/qkv/kernel$", (None, "fsdp", None, "tensor")),  # [layers, W, 3, W]
    (r"blocks/attention/qkv/bias$", (None, None, "tensor")),  # [layers, 3, W]
    (r"blocks/attention/out/kernel$", (None, "tensor", "fsdp")),  # [layers, W, W]
    (r"blocks/mlp/fc/kernel$", (None, "fsdp", "tensor")),  # [layers, W, 4W]
    (r"blocks/mlp/fc/bias$", (None, "tensor")),  # [layers, 4W]
    (r"blocks/mlp/proj/kernel$", (None, "tensor", "fsdp")),  # [layers, 4W, W]
    (r"blocks/(attention/out|mlp/proj|ln_1|ln_2)/(bias|scale)$", ()),
    (r"blocks/conv[13]/kernel$", (None, "fsdp", None)),  # [blocks, I, O]
    (r"blocks/conv2/kernel$", (None, None, None, "fsdp", None)),  # [blocks, 3, 3, I, O]
    (r"(first/conv2|stem/conv\d)/kernel$", (None, None, "fsdp", None)),  # [3, 3, I, O]
    (r"(first/conv[13]|shortcut/conv)/kernel$", ("fsdp", None)),  # [I, O]
    (r"pool/(query|key|value)/kernel$", ("fsdp", "tensor")),  # [C, C]
    (r"pool/(query|key|value)/bias$", ("tensor",)),  # [C]
    (r"pool/projection/kernel$", ("tensor", "fsdp")),  # [C, E]
    (r"pool/projection/bias$", ()),
    (r"(bn\d|shortcut/bn)/(scale|bias|mean|var)$", ()),
    (r"text/token_embedding$", (None, "fsdp")),  # [vocabulary, W]
    (r"(image|text)/projection/kernel$", ("fsdp", None)),  # [W, E]
    (r"image/patch/kernel$", (None, None, None, "fsdp")),  # [p, p, 3, W]
    (r"(class_embedding|positional_embedding)$", ()),
    (r"(ln_pre|ln_post|ln_final)/(bias|scale)$", ()),
    (r"(logit_scale|step|count|skipped)$", ()),
)


def spec_for(path: str, shape: tuple[int, ...], sizes: dict[str, int]):
    """The PartitionSpec of the array at `path`.

    An axis of the array that its mesh axis does not divide stays whole. Raises ValueError for a path that no rule
    names: an array nobody thought about must not silently be replicated.
    """
    from jax.sharding import PartitionSpec

    for pattern, axes in RULES:
        if re.search(pattern, path):
            kept = [axis if axis and shape[i] % sizes[axis] == 0 else None for i, axis in enumerate(axes)]
            return PartitionSpec(*kept)
    raise ValueError(f"{path} {shape}: no sharding rule names it")


def shardings(tree, mesh):
    """The tree with each array (or shape) replaced by its NamedSharding on the mesh."""
    from jax.sharding import NamedSharding

    sizes = dict(mesh.shape)
    return map_with_path(lambda path, leaf: NamedSharding(mesh, spec_for(path, leaf.shape, sizes)), tree)
