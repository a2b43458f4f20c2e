"""A step that was kept is the one that would be traced now, or it is traced again."""

import pathlib
import shutil
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import clipjax
from clipjax.config import MeshConfig, resolve
from clipjax.data.batch import Batch
from clipjax.models import attention
from clipjax.parallel.mesh import make_mesh, replicated, row_sharding
from clipjax.training import lowered, program
from clipjax.training.optimizer import make_optimizer
from clipjax.training.state import init_state

LENGTH = 16


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr(program, "step_directory", lambda: tmp_path / "steps")
    return tmp_path / "steps"


def compiled(config, devices=1):
    mesh = make_mesh(MeshConfig(devices), jax.devices()[:devices])
    return program.compile_step(config, make_optimizer(config), mesh, LENGTH)


def two_steps(config, step):
    """All bits of the state and the metrics after two steps."""
    mesh, random = make_mesh(MeshConfig(1), jax.devices()[:1]), np.random.default_rng(0)
    state, size = init_state(config, make_optimizer(config), mesh), config.model.image.image_size
    images = random.integers(0, 256, (config.batch_size, size, size, 3), np.uint8)
    tokens = random.integers(1, 9, (config.batch_size, LENGTH), np.int32)
    batch = jax.device_put(Batch(images, tokens), row_sharding(mesh))
    for _ in range(2):
        state, metrics = step(state, batch)
    return jax.device_get(jax.tree.leaves((state, metrics)))


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["float32", "float16"])
def test_a_kept_step_gives_the_bits_of_a_traced_one(tiny, folder, monkeypatch, precision):
    tiny.precision = precision
    config = resolve(tiny)
    first = two_steps(config, compiled(config))
    with monkeypatch.context() as patched:
        patched.setattr(program, "step_directory", lambda: None)
        traced = two_steps(config, compiled(config))
    monkeypatch.setattr(program, "make_step", lambda *arguments: traced_again)
    kept = two_steps(config, compiled(config))
    for here, there, again in zip(traced, first, kept, strict=True):
        np.testing.assert_array_equal(here, there)
        np.testing.assert_array_equal(here, again)


@pytest.mark.slow
def test_a_kept_step_gives_its_arguments_away(tiny, folder):
    """Parameters and moments are changed in place, as those of a traced one."""
    config = resolve(tiny)
    made, kept = compiled(config), compiled(config)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(program, "step_directory", lambda: None)
        traced = compiled(config).memory_analysis()
    for analysis in (made.memory_analysis(), kept.memory_analysis()):
        assert analysis.alias_size_in_bytes == traced.alias_size_in_bytes > 0
        assert analysis.temp_size_in_bytes == traced.temp_size_in_bytes


def test_what_decides_a_step_names_its_file(tiny, folder, tmp_path, monkeypatch):
    """Another config, length, setting of JAX, version or source is another step; the same are the same."""
    config, mesh = resolve(tiny), make_mesh(MeshConfig(1), jax.devices()[:1])

    def name(config=config, length=LENGTH):
        return lowered._name(config, program.step_arguments(config, make_optimizer(config), mesh, length))

    names = [name(), name(length=24)]
    tiny.optimizer.learning_rate *= 2
    names.append(name(resolve(tiny)))
    with jax.default_matmul_precision("highest"):
        names.append(name())
    with monkeypatch.context() as patched:
        patched.setattr(lowered.importlib.metadata, "version", lambda library: "0.0")
        assert name() == names[0]  # what is installed while a program runs is not what it runs
        patched.setattr(lowered, "_MADE_BY", lowered._made_by())
        names.append(name())
    copy = shutil.copytree(pathlib.Path(clipjax.__file__).parent, tmp_path / "clipjax")
    monkeypatch.setattr(clipjax, "__file__", str(copy / "__init__.py"))
    assert lowered._made_by() == lowered._MADE_BY
    (copy / "losses/contrastive.py").write_text("# another loss\n")
    assert name() == names[0]
    monkeypatch.setattr(lowered, "_MADE_BY", lowered._made_by())
    assert len({*names, name()}) == len(names) + 1


@pytest.mark.parametrize("kept", [True, False])
def test_a_step_for_a_tpu_is_lowered_whether_it_can_be_kept_or_not(tiny, folder, monkeypatch, kept):
    """Attention by rows asks for a layout, by a custom call that JAX refuses to keep unless it is named."""
    tiny.precision, tiny.model.image.image_size, tiny.batch_size = "bfloat16", 96, 2
    monkeypatch.setattr(attention, "traced_platform", lambda: "tpu")
    if not kept:
        monkeypatch.setattr(lowered, "_UNPROMISED", ())
    config, mesh = resolve(tiny), make_mesh(MeshConfig(1), jax.devices()[:1])
    text = program._lower(config, make_optimizer(config), mesh, LENGTH, None).as_text()
    assert "LayoutConstraint" in text and folder.exists() == kept


class Toy(NamedTuple):
    """A state that no file could name."""

    step: Any
    params: Any


def toy(
    folder, config, step=lambda state, batch: (Toy(state.step + 1, state.params * batch.images.sum()), {"loss": 1.0})
):
    """What a step of 3 numbers gives, lowered in `folder` and run."""
    place = replicated(make_mesh(MeshConfig(1), jax.devices()[:1]))
    given = (
        Toy(jnp.int32(0), jnp.arange(3.0)),
        Batch(jnp.full((1, 2, 2, 3), 2, jnp.uint8), jnp.zeros((1, 8), jnp.int32)),
    )
    given = jax.device_put(given, place)
    shapes = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place), given)
    state, metrics = lowered.lowered_step(folder, config, step, shapes, (Toy(place, place), place)).compile()(*given)
    return state.step, *state.params, metrics["loss"]


def traced_again(state, batch):
    raise AssertionError("the step was traced")


@pytest.mark.parametrize("damage", [lambda content: content[:-7], lambda content: b"", lambda content: content[::-1]])
def test_a_damaged_file_is_made_anew(tiny, tmp_path, damage):
    config = resolve(tiny)
    assert toy(tmp_path, config) == toy(tmp_path, config, traced_again) == (1, 0, 24, 48, 1)
    (path,) = tmp_path.iterdir()
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(AssertionError, match="the step was traced"):
        toy(tmp_path, config, traced_again)
    assert toy(tmp_path, config) == toy(tmp_path, config, traced_again) == (1, 0, 24, 48, 1)
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_that_cannot_be_written_stops_no_run(tiny, tmp_path):
    (tmp_path / "file").write_text("not a folder")
    assert toy(tmp_path / "file", resolve(tiny)) == (1, 0, 24, 48, 1)


@pytest.mark.slow
def test_steps_of_several_devices_are_traced(tiny, folder):
    tiny.mesh.data = 2
    compiled(resolve(tiny), devices=2)
    assert not folder.exists()
