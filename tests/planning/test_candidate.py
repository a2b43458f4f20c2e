"""The process that compiles: what goes in, what comes out, and what of its failures the user sees."""

import subprocess

import pytest

from clipjax.config import resolve
from clipjax.errors import UserError
from clipjax.planning import candidate
from clipjax.planning.topology import machine
from clipjax.training import memory


def test_the_process_sees_the_devices_that_it_plans_for_and_no_others(monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", "--xla_force_host_platform_device_count=3 --xla_other=1")
    made = candidate._environment(machine("cpu:8"))
    assert made["XLA_FLAGS"] == "--xla_other=1 --xla_force_host_platform_device_count=8"
    assert made["JAX_PLATFORMS"] == "cpu"
    tpu = candidate._environment(machine("v5e:4x4"))
    assert tpu["ALLOW_MULTIPLE_LIBTPU_LOAD"] == "1" and tpu["JAX_PLATFORMS"] == "cpu"
    assert candidate._environment(machine("here"))["XLA_PYTHON_CLIENT_PREALLOCATE"] == "false"


def test_the_devices_here_are_those_that_jax_has_there(monkeypatch):
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    monkeypatch.setenv("XLA_FLAGS", "--xla_force_host_platform_device_count=3")
    assert candidate.devices_here() == 3
    monkeypatch.setenv("JAX_PLATFORMS", "none")
    with pytest.raises(UserError, match="topology: the devices here cannot be counted .*none"):
        candidate.devices_here()


def test_devices_that_tell_no_limit_are_named(tiny, monkeypatch):
    tiny.mesh.data = -1
    monkeypatch.setattr(memory, "device_limit", lambda mesh: None)
    with pytest.raises(UserError, match="the devices here do not say how much memory they have"):
        candidate._look(resolve(tiny), machine("here"))


def test_what_takes_too_long_is_said(tiny):
    with pytest.raises(UserError, match="compiling for cpu:1 took longer than 0 minutes"):
        candidate.examine(resolve(tiny), machine("cpu:1"), seconds=0.05)


def test_a_failure_of_ours_shows_what_the_process_said(tiny, monkeypatch):
    def run(command, stdout, **_):
        stdout.write("Traceback: it broke")

    monkeypatch.setattr(subprocess, "run", run)
    with pytest.raises(RuntimeError, match="the compiling process failed:\nTraceback: it broke"):
        candidate.examine(resolve(tiny), machine("cpu:1"))


@pytest.mark.slow
def test_a_mistake_that_shows_in_the_process_is_the_users(tiny):
    tiny.batch_size = 15
    tiny.mesh.data = 2
    with pytest.raises(UserError, match="batch_size: 15"):
        candidate.examine(resolve_anyway(tiny), machine("cpu:2"))


def resolve_anyway(tiny):
    import dataclasses

    from clipjax.config import MeshConfig

    tiny.batch_size, tiny.mesh.data = 16, 2
    return dataclasses.replace(resolve(tiny), batch_size=15, mesh=MeshConfig(2))
