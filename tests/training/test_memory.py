"""What does not fit is said with both figures and with knobs that exist."""

import dataclasses

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from clipjax.config import Config, MeshConfig
from clipjax.errors import UserError
from clipjax.parallel.mesh import make_mesh
from clipjax.training.memory import (
    check_fit,
    device_limit,
    exhausted,
    host_memory,
    in_words,
    knobs,
    program_bytes,
    shard_bytes,
)

SIZES = {"data": 8, "fsdp": 2, "tensor": 1}
# As libtpu 0.0.42 words it.
TOO_LARGE = (
    "RESOURCE_EXHAUSTED: Ran out of memory on HBM, the total memory required for HLO temporaries (87.36G) exceeds "
    "available HBM (15.75G)."
)


def test_what_fits_passes_and_what_nobody_can_judge_too():
    check_fit(Config(), SIZES, 5, 5, 1)
    check_fit(Config(), SIZES, 5, None, 1)


def test_what_does_not_fit_is_told_in_numbers():
    with pytest.raises(UserError, match="needs 20.00 GB a device, 16.00 GB are there .* take 9.00 GB"):
        check_fit(Config(), SIZES, 20 * 10**9, 16 * 10**9, 9 * 10**9)


def keys(config, sizes, limit=100, state=1):
    return [row.split(",")[0] for row in knobs(config, sizes, limit, state)]


def test_the_knobs_are_the_ones_that_are_left_to_turn():
    config = Config(batch_size=64, micro_batch_size=64)
    assert keys(config, SIZES) == ["remat='block'", "micro_batch_size=32"]
    assert keys(dataclasses.replace(config, remat="block"), SIZES, state=40) == ["mesh.fsdp=8", "micro_batch_size=32"]
    turned = dataclasses.replace(config, remat="block", micro_batch_size=16)
    assert keys(turned, SIZES) == ["mesh.fsdp=8"]  # 16 rows are one a device already
    assert "more devices" in keys(turned, {"data": 1, "fsdp": 16, "tensor": 1})[0]


def test_a_large_tile_is_a_knob_of_its_own():
    loss = dataclasses.replace(Config().loss, block_size=8192)
    assert "loss.block_size=2048" in keys(Config(loss=loss), SIZES)


def test_both_numbers_of_a_compilers_complaint_are_read():
    assert exhausted(TOO_LARGE) == (round(87.36 * 2**30), round(15.75 * 2**30))
    assert exhausted(TOO_LARGE.replace("87.36G", "1.17T"))[0] == round(1.17 * 2**40)
    assert exhausted("INTERNAL: something else") is None


def test_a_program_counts_its_arguments_and_what_it_makes():
    x = jax.ShapeDtypeStruct((256, 256), jnp.float32)
    program = jax.jit(lambda x: jnp.sin(x @ x).sum()).lower(x).compile()
    assert 2 * 4 * 256**2 <= program_bytes(program) < 3 * 4 * 256**2  # the product is a temporary
    donated = jax.jit(lambda x: x + 1, donate_argnums=0).lower(x).compile()
    assert program_bytes(donated) == 4 * 256**2


def test_the_bytes_of_a_tree_are_those_of_one_device():
    mesh = make_mesh(MeshConfig(fsdp=4), jax.devices())
    split = jax.ShapeDtypeStruct((8, 6), jnp.float32, sharding=NamedSharding(mesh, PartitionSpec("fsdp")))
    whole = jax.ShapeDtypeStruct((3,), jnp.bfloat16, sharding=NamedSharding(mesh, PartitionSpec()))
    assert shard_bytes({"a": split, "b": whole}) == 2 * 6 * 4 + 3 * 2


def test_devices_of_the_cpu_share_the_machine():
    assert device_limit(make_mesh(MeshConfig(), jax.devices())) == host_memory() // 8


def test_bytes_are_told_in_three_figures():
    assert [in_words(n) for n in (12, 2100, 5.15e9, 123.4e9, 2e12)] == [
        "12 B",
        "2.10 KB",
        "5.15 GB",
        "123 GB",
        "2.00 TB",
    ]
