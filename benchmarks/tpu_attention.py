"""What the TPU compiler expects of ViT-L/14's image tower, forward and backward, by the form of its attention.

No TPU is needed, only its compiler: pip install 'clipjax[tpu]'. The cycles that the compiler expects of each operation,
one after another, at 1.5 GHz: its model of a v5e chip, not a measurement. Three minutes of a core for each form.
"""

import argparse
import contextlib
import os

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["ALLOW_MULTIPLE_LIBTPU_LOAD"] = "1"

import jax
import jax.numpy as jnp
from flax import nnx
from jax.experimental import topologies

from clipjax.config import MeshConfig, preset
from clipjax.models.layers import uniform
from clipjax.models.transformer import BlockInit, run, stack
from clipjax.parallel.mesh import make_mesh, replicated, traced_on
from clipjax.planning.hlo import parse
from clipjax.planning.traffic import estimated_cycles, memory_bytes


class Tower(nnx.Module):
    """The blocks of an image tower, in bfloat16."""

    def __init__(self, config, remat):
        options = dict(activation="quick_gelu", causal=False, init=BlockInit(*[uniform(0.1)] * 4), dtype=jnp.bfloat16)
        self.blocks, self.last = stack(config.layers, config.width, config.heads, **options)
        self.remat = remat

    def __call__(self, x):
        return run(self.blocks, self.last, x, 0, remat=self.remat)


def compiled(model: str, rows: int, remat: str, form: str):
    """The gradient of a tower's blocks for `rows` pictures, compiled for one v5e chip."""
    config = preset(model).image
    tokens = (config.image_size // config.patch_size) ** 2 + 1
    (device,) = topologies.get_topology_desc("v5e:1x1", "tpu", chips_per_host_bounds=(1, 1, 1)).devices
    mesh = make_mesh(MeshConfig(), [device])
    graph, params = nnx.split(nnx.eval_shape(lambda: Tower(config, remat)))

    def squares(params, x):
        with traced_on(mesh) if form == "rows" else contextlib.nullcontext():
            return jnp.square(nnx.merge(graph, params)(x).astype(jnp.float32)).sum()

    x = jax.ShapeDtypeStruct((rows, tokens, config.width), jnp.bfloat16)
    arguments = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=replicated(mesh)),
        (nnx.to_pure_dict(params), x),
    )
    return jax.jit(jax.grad(squares, argnums=(0, 1))).lower(*arguments).compile()


def main() -> None:
    """Print a line for each form."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="ViT-L/14")
    parser.add_argument("--rows", type=int, default=128)
    parser.add_argument("--remat", default="block")
    parser.add_argument("--forms", nargs="+", choices=["products", "rows"], default=["products", "rows"])
    options = parser.parse_args()
    for form in options.forms:
        program = compiled(options.model, options.rows, options.remat, form)
        module = parse(program.as_text())
        print(
            f"{options.model}, {options.rows} rows, remat {options.remat}, {form}: "
            f"{estimated_cycles(module) / 1.5e6:,.0f} ms, {memory_bytes(module) / 1e9:,.0f} GB through memory, "
            f"{program.memory_analysis().temp_size_in_bytes / 1e9:.1f} GB temporary",
            flush=True,
        )


if __name__ == "__main__":
    main()
