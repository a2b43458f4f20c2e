"""The step as the compiler takes it, kept for the next start, a fifth of which is spent on tracing and lowering it."""

import contextlib
import hashlib
import importlib.metadata
import os
import pathlib

import jax
from jax import export

import clipjax
from clipjax.config import Config, as_json

_LIBRARIES = ("jax", "jaxlib", "flax", "optax", "numpy")  # whose code a step is made by
_CHECKSUM = hashlib.sha256().digest_size
# JAX does not promise that later versions know these custom calls; those read nothing that this one has kept.
_UNPROMISED = ("__cudnn$fmhaSoftmax", "__cudnn$fmhaSoftmaxBackward", "LayoutConstraint")


def _made_by() -> bytes:
    """Digest of what makes a step: the libraries' versions and this package's sources."""
    digest = hashlib.sha256(repr([importlib.metadata.version(library) for library in _LIBRARIES]).encode())
    sources = pathlib.Path(clipjax.__file__).parent
    for path in sorted(sources.rglob("*.py")):
        digest.update(f"{path.relative_to(sources)}\n".encode() + path.read_bytes())
    return digest.digest()


_MADE_BY = _made_by()  # at the start: what is installed while a program runs is not what it runs


def lowered_step(folder: pathlib.Path, config: Config, step, arguments: tuple, out_shardings: tuple):
    """The step of a config as `jax.stages.Lowered`, its state donated: read from `folder`, else traced and kept there.

    `step` is a function (state, batch) -> (state, metrics); `arguments` are its shapes and shardings. A file's name is
    made of all that decides what is in it: config, arguments, device, JAX's settings, versions of the libraries, and
    this package's sources. What a program changes of these in its own memory is not seen. Damaged files are made anew;
    reading one executes nothing.
    """
    (state, batch), (places, metrics_place) = arguments, out_shardings
    structure = jax.tree.structure(state)  # of tuples that are optax's own, which no file could name
    path = folder / _name(config, arguments)
    exported = _read(path)
    if exported is None:

        def flat(leaves, *arrays):
            after, metrics = step(structure.unflatten(leaves), type(batch)(*arrays))
            return jax.tree.leaves(after), metrics

        jitted = jax.jit(flat, out_shardings=(jax.tree.leaves(places), metrics_place))
        disabled = [export.DisabledSafetyCheck.custom_call(name) for name in _UNPROMISED]
        try:
            exported = export.export(jitted, disabled_checks=disabled)(jax.tree.leaves(state), *batch)
        except ValueError:  # a custom call beside those: a step that cannot be kept
            return jax.jit(step, donate_argnums=0, out_shardings=out_shardings).lower(*arguments)
        _write(path, exported)

    def kept(state, batch):
        leaves, metrics = exported.call(jax.tree.leaves(state), *batch)
        return structure.unflatten(leaves), metrics

    return jax.jit(kept, donate_argnums=0, out_shardings=out_shardings).lower(*arguments)


def _name(config: Config, arguments: tuple) -> str:
    """What decides the lowered step, as a digest."""
    device = jax.tree.leaves(arguments)[0].sharding.mesh.devices.flat[0]
    said = (as_json(config), arguments, device.device_kind, device.client.platform_version, jax.config.values)
    return hashlib.sha256(_MADE_BY + repr(said).encode()).hexdigest()


def _read(path: pathlib.Path) -> export.Exported | None:
    """What `_write` has written there; None where nothing is, or something else."""
    try:
        content = path.read_bytes()
    except OSError:
        return None
    checksum, content = content[:_CHECKSUM], content[_CHECKSUM:]
    return export.deserialize(bytearray(content)) if hashlib.sha256(content).digest() == checksum else None


def _write(path: pathlib.Path, exported: export.Exported) -> None:
    content = exported.serialize()
    with contextlib.suppress(OSError):  # no room, say: the next start traces again
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_suffix(f".{os.getpid()}")
        temporary.write_bytes(hashlib.sha256(content).digest() + content)
        temporary.replace(path)
