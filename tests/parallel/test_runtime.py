"""Start-up: the cache lies where the user says, and a half-set environment is named."""

import pathlib
import subprocess
import sys

import jax
import jax.numpy as jnp
import optax
import pytest

from clipjax.errors import UserError
from clipjax.parallel import runtime


def test_the_cache_lies_where_the_environment_says(monkeypatch, tmp_path):
    monkeypatch.delenv("CLIPJAX_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert runtime.cache_directory() == tmp_path / "clipjax"
    monkeypatch.setenv("CLIPJAX_CACHE", str(tmp_path / "mine"))
    assert runtime.cache_directory() == pathlib.Path(tmp_path / "mine")


def test_steps_are_kept_beside_the_programs_that_jax_keeps(monkeypatch, tmp_path):
    monkeypatch.setenv("CLIPJAX_CACHE", str(tmp_path))
    assert runtime.step_directory() is None
    before = jax.config.jax_compilation_cache_dir
    jax.config.update("jax_compilation_cache_dir", f"{tmp_path}/xla")
    assert runtime.step_directory() == tmp_path / "steps"
    jax.config.update("jax_compilation_cache_dir", before)


def test_a_missing_number_of_processes_is_named(monkeypatch):
    monkeypatch.setenv("CLIPJAX_COORDINATOR", "127.0.0.1:1")
    monkeypatch.setenv("CLIPJAX_PROCESSES", "two")
    with pytest.raises(UserError, match="CLIPJAX_PROCESSES: 'two' should be a whole number"):
        runtime.start(cache=False)


@pytest.mark.parametrize(
    ("coordinator", "number", "said"),
    [
        ("localhost", "0", "CLIPJAX_COORDINATOR: 'localhost' should be host:port, or auto"),
        ("localhost:1", "2", "CLIPJAX_PROCESS_ID: 2 should be less than CLIPJAX_PROCESSES=2; the first is 0"),
    ],
)
def test_variables_that_no_cluster_has_are_named(monkeypatch, coordinator, number, said):
    for name, value in (("COORDINATOR", coordinator), ("PROCESSES", "2"), ("PROCESS_ID", number)):
        monkeypatch.setenv(f"CLIPJAX_{name}", value)
    with pytest.raises(UserError, match=said):
        runtime.start(cache=False)


def test_adamw_changes_moments_in_place():
    """Of the moments and parameters no copy is made: temporary memory is little more than one of the leaves."""

    optimizer = optax.adamw(1e-3, weight_decay=0.1)

    def step(params, state, gradient):
        updates, after = optimizer.update(gradient, state, params)
        good = jnp.isfinite(gradient["0"]).all()
        return jax.tree.map(lambda new, old: jnp.where(good, new, old), (params | updates, after), (params, state))

    leaves = {str(i): jax.ShapeDtypeStruct((64, 1000), jnp.float32) for i in range(6)}
    program = jax.jit(step, donate_argnums=(0, 1)).lower(leaves, jax.eval_shape(optimizer.init, leaves), leaves)
    copied = program.compile().memory_analysis().temp_size_in_bytes
    assert program.compile(runtime.compiler_options("cpu")).memory_analysis().temp_size_in_bytes < copied / 3
    assert runtime.compiler_options("tpu") == {}


def test_a_second_program_finds_the_memory_of_the_first(tmp_path):
    """What a program frees is not paged in again by the next call; in a process of its own, since it stays so."""

    script = """
import resource, sys
from clipjax.parallel import runtime
runtime.start(cache=False)
import jax, jax.numpy as jnp
work = jax.jit(lambda x: jnp.sort(jnp.sort(x * 2, axis=0), axis=1).sum())
x = jnp.ones((4096, 4096))
faults = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_minflt
work(x)
if sys.argv[1] == "keep":
    runtime.keep_freed_memory()

def count():
    before = faults()
    float(work(x))
    return faults() - before
print(min(count() for _ in range(5)))
"""
    counts = {
        mode: int(subprocess.run([sys.executable, "-c", script, mode], capture_output=True, text=True).stdout)
        for mode in ("keep", "default")
    }
    assert counts["keep"] < counts["default"] / 10, counts


@pytest.fixture
def joined(monkeypatch):
    """What JAX is told of the other processes."""
    calls = []
    monkeypatch.setattr(jax.distributed, "initialize", lambda *given, **options: calls.append((given, options)))
    monkeypatch.setattr(jax.distributed, "is_initialized", lambda: False)
    return calls


def test_a_process_joins_the_others_and_keeps_the_devices_that_it_sees(monkeypatch, joined):
    runtime.start(cache=False)
    assert not joined
    for name, value in (("COORDINATOR", "host:1"), ("PROCESSES", "4"), ("PROCESS_ID", "3")):
        monkeypatch.setenv(f"CLIPJAX_{name}", value)
    runtime.start(cache=False)
    # or JAX would find SLURM by itself and take one device for each process, that of the task's number
    assert joined == [(("host:1", 4, 3), {"cluster_detection_method": "deactivate"})]


def test_jax_finds_the_others_where_it_can(monkeypatch, joined):
    monkeypatch.setenv("CLIPJAX_COORDINATOR", "auto")
    runtime.start(cache=False)
    assert joined == [((), {})]
