"""The contrastive loss: its time beside the dense form's on one device, and its memory, compiled, not run.

python benchmarks/loss.py
"""

import concurrent.futures
import multiprocessing
import statistics
import time

import jax
import jax.numpy as jnp
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from clipjax.losses import contrastive_loss

E = 512


def main():
    print(f"jax {jax.__version__}; value and gradient, E = {E}, float32\n\ncompiled temporary memory a device")
    print("      N  devices  method      MiB")
    with concurrent.futures.ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        for case in ((32768, 1, "auto"), (32768, 8, "ring"), (32768, 8, "gather"), (2**20, 8, "auto")):
            n, devices, method = case
            print(f"{n:7d} {devices:8d}  {method:6s} {pool.submit(temporary_bytes, *case).result() / 2**20:8.0f}")
    print(f"\none device, {jax.devices()[0].device_kind}, medians of rounds in turn: seconds by the clock, then of the")
    print("processors, and the median ratio of a round\n      N   dense  blockwise  ratio   dense  blockwise  ratio")
    for n, rounds in ((4096, 7), (8192, 3)):
        taken = turns((dense_loss, contrastive_loss), n, rounds)  # [rounds][losses](clock, processors)
        figures = []
        for i in (0, 1):
            dense, blockwise = ([times[j][i] for times in taken] for j in (0, 1))
            ratio = statistics.median(y / x for x, y in zip(dense, blockwise, strict=True))
            figures.append(f"{statistics.median(dense):7.2f} {statistics.median(blockwise):10.2f} {ratio:6.2f}")
        print(f"{n:7d} {' '.join(figures)}", flush=True)


def dense_loss(image, text, scale):
    """The textbook form, with all N x N logits."""
    logits = scale * jnp.matmul(image, text.T, precision="highest")
    own = jnp.diagonal(logits)
    return 0.5 * sum(jnp.mean(jax.nn.logsumexp(logits, axis) - own) for axis in (0, 1))


def turns(losses, n, rounds):
    """Seconds (clock, processors) of value and gradient of each loss in each round, so that a busy machine slows all
    alike."""
    image, text = jax.random.normal(jax.random.key(0), (2, n, E))
    arguments = [x / jnp.linalg.norm(x, axis=1, keepdims=True) for x in (image, text)] + [jnp.float32(1 / 0.07)]
    steps = [jax.jit(jax.value_and_grad(loss, argnums=(0, 1, 2))) for loss in losses]
    for step in steps:
        jax.block_until_ready(step(*arguments))  # compiles
    return [[_seconds(step, arguments) for step in steps] for _ in range(rounds)]


def _seconds(step, arguments):
    clock, processors = time.perf_counter(), time.process_time()
    jax.block_until_ready(step(*arguments))
    return time.perf_counter() - clock, time.process_time() - processors


def temporary_bytes(n, devices, method):
    """Bytes that value and gradient take on each device beside their arguments and results; in a process of its own."""
    jax.config.update("jax_num_cpu_devices", 8)
    mesh = jax.make_mesh(
        (devices, 1), ("data", "fsdp"), axis_types=(AxisType.Auto,) * 2, devices=jax.devices()[:devices]
    )
    rows = NamedSharding(mesh, PartitionSpec(("data", "fsdp")))
    features = jax.ShapeDtypeStruct((n, E), jnp.float32, sharding=rows)
    scale = jax.ShapeDtypeStruct((), jnp.float32, sharding=NamedSharding(mesh, PartitionSpec()))
    step = jax.value_and_grad(lambda *x: contrastive_loss(*x, mesh=mesh, method=method), argnums=(0, 1, 2))
    return jax.jit(step).lower(features, features, scale).compile().memory_analysis().temp_size_in_bytes


if __name__ == "__main__":
    main()
