"""Names of machines are read, and what is wrong with one is said."""

import importlib.util

import jax
import pytest

from clipjax.errors import UserError
from clipjax.planning import topology
from clipjax.planning.topology import find_devices, machine, require_libtpu


@pytest.mark.parametrize(
    ("name", "devices"),
    [("v5e:16x16", 256), ("v6e:4x4", 16), ("v5p:4x4x4", 64), ("v4:2x2x1", 4), ("tpu7x:2x2x1", 8), ("cpu:8", 8)],
)
def test_a_machine_has_so_many_devices(name, devices):
    assert machine(name).devices == devices


def test_this_machine_tells_itself():
    assert machine("here").devices is None
    assert find_devices(machine("here")) == jax.devices()


@pytest.mark.parametrize(
    "name", ["", "v5e", "v9:4x4", "v5e-16", "v5e:4", "v5p:4x4", "v5e:0x4", "cpu:0", "cpu", "gpu:8"]
)
def test_an_unknown_machine_is_told_the_forms(name):
    with pytest.raises(UserError, match=r"topology: .*(There are: v5e, v6e as NAME:AxB|have the form \w+:A)"):
        machine(name)


def test_a_missing_compiler_is_told_how_to_get_it(monkeypatch):
    monkeypatch.setattr(topology.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install 'clipjax\[tpu\]'"):
        require_libtpu()


@pytest.mark.skipif(importlib.util.find_spec("libtpu") is None, reason="needs libtpu")
def test_a_compiler_that_is_there_is_enough():
    require_libtpu()
