"""The mesh: rows of a batch lie where the devices need them, whatever the mesh."""

from types import SimpleNamespace

import jax
import numpy as np
import pytest

from clipjax.config import MeshConfig
from clipjax.errors import UserError
from clipjax.parallel.mesh import (
    AXES,
    greatest,
    local_rows,
    make_mesh,
    over_slices,
    place_rows,
    replicated,
    row_sharding,
    traced_on,
    traced_platform,
)

MESHES = [MeshConfig(), MeshConfig(2, 4, 1), MeshConfig(2, 2, 2), MeshConfig(1, 1, 8)]


@pytest.mark.parametrize("config", MESHES)
def test_a_placed_batch_is_the_batch(config):
    mesh = make_mesh(config)
    batch = np.arange(16 * 3).reshape(16, 3)
    rows = local_rows(mesh, 16)
    placed = place_rows(mesh, batch[rows], rows, 16)
    np.testing.assert_array_equal(placed, batch)
    assert placed.sharding == row_sharding(mesh)
    assert placed.addressable_shards[0].data.shape[0] == 16 // (mesh.shape["data"] * mesh.shape["fsdp"])


def test_a_batch_lies_on_the_cpu_before_a_step_is_called():
    """A step that has to wait for it would run in another thread, and page its memory in again every time."""
    mesh, batch = make_mesh(MeshConfig(), jax.devices()[:1]), np.ones((256, 1 << 20), np.uint8)  # a while to copy
    assert all(place_rows(mesh, batch, np.arange(256), 256).is_ready() for _ in range(3))


def test_one_process_needs_all_rows():
    np.testing.assert_array_equal(local_rows(make_mesh(MeshConfig(2, 2, 2)), 8), np.arange(8))


def test_a_mesh_can_be_made_of_some_devices():
    mesh = make_mesh(MeshConfig(1, 2, 1), jax.devices()[:2])
    assert dict(mesh.shape) == dict(zip(AXES, (1, 2, 1), strict=True))
    assert replicated(mesh).is_fully_replicated


@pytest.mark.parametrize("processes", [1, 2])
@pytest.mark.parametrize("config", MESHES)
def test_the_greatest_is_known_everywhere(config, processes, monkeypatch):
    monkeypatch.setattr(jax, "process_count", lambda *_: processes)
    np.testing.assert_array_equal(greatest(make_mesh(config), [31, True]), [31, 1])


def chips(slices, platform="tpu"):
    """Eight stand-ins for devices, dealt out to so many slices in turn."""
    return [SimpleNamespace(id=i, slice_index=i % slices, platform=platform, device_kind="none") for i in range(8)]


@pytest.mark.parametrize("sizes", [(2, 4, 1), (4, 2, 1), (2, 2, 2)])
def test_a_slice_is_a_block_of_the_data_axis(sizes):
    devices = over_slices(2, sizes, chips(2, "gpu"))  # of which no torus is asked
    assert devices.shape == sizes
    assert len({device.id for device in devices.flat}) == 8
    for half, wanted in zip(np.split(devices, 2), (0, 1), strict=True):
        assert {device.slice_index for device in half.flat} == {wanted}


@pytest.mark.parametrize(
    ("config", "devices", "said"),
    [
        (MeshConfig(num_slices=2), None, r"num_slices: 2, but the 8 devices here .cpu. lie in no slice\. Set .*=1"),
        (MeshConfig(num_slices=4), chips(2), "lie in 2 slices. Set mesh.num_slices=2"),
        (MeshConfig(), chips(2), "num_slices: 1, but .* lie in 2 slices"),
        (MeshConfig(fsdp=8, num_slices=2), chips(2), "num_slices: 2 does not divide mesh.data=1"),
    ],
)
def test_slices_that_are_not_there_are_refused(config, devices, said):
    with pytest.raises(UserError, match=said):
        make_mesh(config, devices)


def test_the_platform_is_that_of_the_mesh_that_is_traced_on():
    assert traced_platform() == ""
    with traced_on(make_mesh(MeshConfig())):
        assert traced_platform() == "cpu"
