"""Mesh sizes: -1 takes what remains."""

import pytest

from clipjax.config import MeshConfig
from clipjax.errors import UserError


@pytest.mark.parametrize(
    ("mesh", "devices", "sizes"),
    [(MeshConfig(), 8, (8, 1, 1)), (MeshConfig(-1, 2, 2), 8, (2, 2, 2)), (MeshConfig(1, 4, 1), 4, (1, 4, 1))],
)
def test_the_axes_fill_the_devices(mesh, devices, sizes):
    assert mesh.sizes(devices) == sizes


def test_a_product_that_is_not_the_device_count_is_refused():
    with pytest.raises(UserError, match="needs 6 devices, but 8 are here"):
        MeshConfig(3, 2, 1).sizes(8)


@pytest.mark.parametrize(
    ("mesh", "said"),
    [
        (MeshConfig(num_slices=0), "num_slices: 0 should be at least 1"),
        (MeshConfig(data=3, num_slices=2), "num_slices: 2 does not divide mesh.data=3"),
    ],
)
def test_slices_divide_the_data_axis(mesh, said):
    assert mesh.mistakes() == [said]
