"""The contrastive loss: its time beside the dense form's on one device, and its memory on eight, compiled, not run.

python benchmarks/loss.py
"""

import time

import jax
import jax.numpy as jnp
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from clipjax.losses import contrastive_loss

E = 512


def main():
    jax.config.update("jax_num_cpu_devices", 8)
    print(f"jax {jax.__version__} on {jax.devices()[0].device_kind}; value and gradient, E = {E}, float32\n")
    print("one device: seconds (the quicker of several turns)\n      N   dense  blockwise  blockwise/dense")
    for n, turns in ((4096, 6), (8192, 3)):
        dense, blockwise = quickest((dense_loss, contrastive_loss), n, turns)
        print(f"{n:7d} {dense:7.2f} {blockwise:10.2f} {blockwise / dense:16.2f}")
    print("\neight devices, compiled temporary memory a device\n      N  method   MiB")
    for method in ("ring", "gather"):
        print(f"{32768:7d}  {method:6s} {temporary_bytes(32768, method) / 2**20:5.0f}")


def dense_loss(image, text, scale):
    """The textbook form, with all N x N logits."""
    logits = scale * jnp.matmul(image, text.T, precision="highest")
    own = jnp.diagonal(logits)
    return 0.5 * sum(jnp.mean(jax.nn.logsumexp(logits, axis) - own) for axis in (0, 1))


def quickest(losses, n, turns):
    """Fewest seconds of value and gradient of each loss; they take turns, so that a busy machine slows all alike."""
    image, text = jax.random.normal(jax.random.key(0), (2, n, E))
    arguments = [x / jnp.linalg.norm(x, axis=1, keepdims=True) for x in (image, text)] + [jnp.float32(1 / 0.07)]
    steps = [jax.jit(jax.value_and_grad(loss, argnums=(0, 1, 2))) for loss in losses]
    for step in steps:
        jax.block_until_ready(step(*arguments))  # compiles
    seconds = [[] for _ in steps]
    for _ in range(turns):
        for step, taken in zip(steps, seconds, strict=True):
            start = time.perf_counter()
            jax.block_until_ready(step(*arguments))
            taken.append(time.perf_counter() - start)
    return [min(taken) for taken in seconds]


def temporary_bytes(n, method):
    """Bytes that value and gradient take on each of 8 devices beside their arguments and results."""
    mesh = jax.make_mesh((4, 2), ("data", "fsdp"), axis_types=(AxisType.Auto,) * 2)
    rows = NamedSharding(mesh, PartitionSpec(("data", "fsdp")))
    features = jax.ShapeDtypeStruct((n, E), jnp.float32, sharding=rows)
    scale = jax.ShapeDtypeStruct((), jnp.float32, sharding=NamedSharding(mesh, PartitionSpec()))
    step = jax.value_and_grad(lambda *x: contrastive_loss(*x, mesh=mesh, method=method), argnums=(0, 1, 2))
    return jax.jit(step).lower(features, features, scale).compile().memory_analysis().temp_size_in_bytes


if __name__ == "__main__":
    main()
