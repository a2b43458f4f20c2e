"""Accelerators as data: what a chip computes, holds and sends a second."""

from typing import NamedTuple


class Chip(NamedTuple):
    """One chip, as its maker states it. `devices`: how many JAX devices it shows ahead of time; `rates` divides by it.

    memory: bytes a *device*, as its compiler allows them (found by compiling what does not fit: less than the sheet
    says); memory_rate: bytes/s of its own memory; link_rate: bytes/s one way of a link to the next chip; wraps: the
    length from which, and in multiples of which, a torus axis closes to a ring (0: no torus); slice_rate: bytes/s a
    chip over the data-centre network between slices; clock: of the matrix units, cycles/s (0: not known).
    """

    flops: float  # bfloat16, dense
    memory: int
    memory_rate: float
    link_rate: float
    dimensions: int
    wraps: int
    slice_rate: float
    clock: float
    devices: int = 1
    config: str = ""  # of libtpu, where its default is not how JAX runs the chip: v4's two cores are one device


# Rates: Google Cloud's "System architecture" pages of each version; links and the network between slices: "How to
# Scale Your Model", chapter 2. Clocks: flops / (matrix units x 2 x their side²); only v5e's was held against a product.
TPUS = {
    "v4": Chip(275e12, round(30.75 * 2**30), 1200e9, 45e9, 3, 4, 6.25e9, 1.05e9, config="megacore"),
    "v5e": Chip(197e12, round(15.75 * 2**30), 819e9, 50e9, 2, 16, 3.125e9, 1.5e9),
    "v5p": Chip(459e12, round(95.74 * 2**30), 2765e9, 100e9, 3, 4, 6.25e9, 1.75e9),
    "v6e": Chip(918e12, round(31.25 * 2**30), 1638e9, 100e9, 2, 16, 12.5e9, 1.75e9),
    "tpu7x": Chip(2307e12, round(94.75 * 2**30), 7380e9, 100e9, 3, 4, 12.5e9, 2.2e9, devices=2),
}

# By JAX's `device_kind`; bytes are asked of the device. NVIDIA's data sheets: dense bfloat16, HBM, NVLink one way.
GPUS = {
    "NVIDIA A100-SXM4-40GB": Chip(312e12, 0, 1555e9, 300e9, 1, 0, 25e9, 0),
    "NVIDIA A100-SXM4-80GB": Chip(312e12, 0, 2039e9, 300e9, 1, 0, 25e9, 0),
    "NVIDIA H100 80GB HBM3": Chip(989e12, 0, 3350e9, 450e9, 1, 0, 50e9, 0),
    "NVIDIA H200": Chip(989e12, 0, 4800e9, 450e9, 1, 0, 50e9, 0),
}


HOST_RATE = 15e9  # bytes/s between a chip and its host (PCIe), same chapter


class Rates(NamedTuple):
    """What one JAX device does a second; `source` says where the numbers come from."""

    flops: float
    memory: float
    link: float
    slice: float
    clock: float
    source: str


def rates(chip: Chip, source: str) -> Rates:
    """Those of one of the chip's devices."""
    share = chip.devices
    return Rates(
        chip.flops / share,
        chip.memory_rate / share,
        chip.link_rate / share,
        chip.slice_rate / share,
        chip.clock,
        source,
    )


def measured(devices: int) -> Rates:
    """Those of one of `devices` that share this machine: a matrix product and a copy in memory, timed here.

    Devices of one machine send to each other through its memory, so that rate stands for the links too.
    """
    import time

    import jax
    import jax.numpy as jnp
    import numpy as np

    def seconds(function):
        function()
        times = []
        for _ in range(3):
            began = time.perf_counter()
            function()
            times.append(time.perf_counter() - began)
        return min(times)

    side, count = 1024, 2**26
    matrix, source, target = jnp.ones((side, side)), np.ones(count, np.uint8), np.empty(count, np.uint8)
    product = jax.jit(lambda x: x @ x, device=None).lower(matrix).compile()
    flops = 2 * side**3 / seconds(lambda: product(matrix).block_until_ready())
    copied = 2 * count / seconds(lambda: np.copyto(target, source))
    return Rates(flops / devices, copied / devices, copied / devices, copied / devices, 0, "measured on this machine")
