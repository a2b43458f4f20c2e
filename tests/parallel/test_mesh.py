"""The mesh: rows of a batch lie where the devices need them, whatever the mesh."""

import jax
import numpy as np
import pytest

from clipjax.config import MeshConfig
from clipjax.parallel.mesh import AXES, greatest, local_rows, make_mesh, place_rows, replicated, row_sharding

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
