"""One ordered table says how every array of the train state is divided; moments follow their parameter."""

import math
import re

from clipjax.parallel.mesh import AXES, ROWS
from clipjax.trees import map_with_path

# First match wins. Paths are those of `clipjax.models.clip`; the optimizer's moments end in the same paths. What is
# stacked, below `blocks/`, has one more axis, of layers, before those that stand here.
# Large matrices lie divided along fsdp at rest, and a device gathers those of a block when it gets there. Along tensor
# a transformer's lie divided by heads or hidden units, and are used so; a ResNet's are gathered, as along fsdp: tensor
# divides its rows further, since channels would have to be exchanged at every convolution. Vectors are replicated.
# I, O: channels in and out of a convolution, C: of the attention pool.
RULES = (
    (r"attention/qkv/kernel$", ("fsdp", None, "tensor")),  # [W, 3, W]
    (r"attention/qkv/bias$", (None, "tensor")),  # [3, W]
    (r"attention/out/kernel$", ("tensor", "fsdp")),  # [W, W]
    (r"mlp/fc/kernel$", ("fsdp", "tensor")),  # [W, 4W]
    (r"mlp/fc/bias$", ("tensor",)),  # [4W]
    (r"mlp/proj/kernel$", ("tensor", "fsdp")),  # [4W, W]
    (r"(attention/out|mlp/proj)/bias$", ()),
    (r"(stage\d/.*/conv2|stem/conv\d)/kernel$", (None, None, "fsdp", "tensor")),  # [3, 3, I, O]
    (r"stage\d/.*/(conv[13]|shortcut/conv)/kernel$", ("fsdp", "tensor")),  # [I, O]
    (r"pool/(query|key|value)/kernel$", ("fsdp", "tensor")),  # [C, C]
    (r"pool/(query|key|value)/bias$", ()),
    (r"pool/projection/kernel$", ("fsdp", "tensor")),  # [C, E]
    (r"pool/projection/bias$", ()),
    (r"(bn\d|shortcut/bn)/(scale|bias|mean|var)$", ()),
    (r"text/token_embedding$", (None, ("fsdp", "tensor"))),  # [vocabulary, W]
    (r"(image|text)/projection/kernel$", ("fsdp", None)),  # [W, E]
    (r"image/patch/kernel$", (None, None, None, "fsdp")),  # [p, p, 3, W]
    (r"positional_embedding$", (None, "fsdp")),  # [T, W]
    (r"class_embedding$", ()),
    (r"(ln_1|ln_2|ln_pre|ln_post|ln_final)/(bias|scale)$", ()),
    (r"(logit_scale|logit_bias|step|count|skipped|loss_scale/(scale|good_steps))$", ()),
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
            return PartitionSpec(*(_kept(axis, shape[i], sizes) for i, axis in enumerate(axes)))
    raise ValueError(f"{path} {shape}: no sharding rule names it")


def _kept(axes, length: int, sizes: dict[str, int]):
    """Those of the mesh's axes (None, a name or several) that divide the length together."""
    names = (axes,) if isinstance(axes, str) else axes or ()
    while names and length % math.prod(sizes[name] for name in names):
        names = names[:-1]
    return names[0] if len(names) == 1 else names or None


def shardings(tree, mesh):
    """The tree with each array (or shape) replaced by its NamedSharding on the mesh."""
    from jax.sharding import NamedSharding

    sizes = dict(mesh.shape)
    return map_with_path(lambda path, leaf: NamedSharding(mesh, spec_for(path, leaf.shape, sizes)), tree)


def by_rows(x, *more):
    """x with its first axis, rows of the global batch, divided over `data` and `fsdp`, and every other axis whole.

    `more`: axes that divide the rows further, if they can. Blocks begin and end so: left alone, XLA divides what goes
    through them as the weights lie, by width, and adds up all rows of the batch over the devices after every product.
    """
    return laid_out(x, (*ROWS, *more))


def laid_out(x, *axes):
    """x with its first axes divided over axes of the mesh (None, a name or several each), and all others whole.

    The mesh is the one that the program is traced on (`mesh.traced_on`). Without one, x is what it was.
    """
    import jax
    from jax.sharding import AxisType, PartitionSpec

    mesh = jax.sharding.get_abstract_mesh()
    kinds = dict(zip(mesh.axis_names, mesh.axis_types, strict=True))
    if any(kinds.get(name) != AxisType.Auto for name in AXES):  # none, a stranger's, or one that shard_map has divided
        return x
    spec = PartitionSpec(*(_kept(axis, x.shape[i], mesh.shape) for i, axis in enumerate(axes)))
    return jax.lax.with_sharding_constraint(x, spec)
