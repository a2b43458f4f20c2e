"""A model with its tokenizer and preprocessing: load from anything, encode, classify, save and convert."""

import functools
import hashlib
import os
import pathlib
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import numpy as np
from flax import nnx

from clipjax import checkpoints, text, weights
from clipjax.config import Config, LossConfig, MeshConfig, model_values
from clipjax.errors import UserError
from clipjax.images.decode import open_image
from clipjax.images.preprocess import preprocess
from clipjax.models.clip import CLIP
from clipjax.models.layers import unit
from clipjax.models.stacking import stack_layers, unstack_layers
from clipjax.parallel.mesh import greatest, local_rows, make_mesh, place_rows, replicated, traced_on
from clipjax.parallel.precision import policy
from clipjax.parallel.runtime import keep_freed_memory
from clipjax.progress import say
from clipjax.text.lengths import by_length, lengths
from clipjax.trees import flatten, unflatten
from clipjax.weights import parity
from clipjax.weights.program import encoders

FORMATS = ("orbax", *weights.FORMATS, *weights.PROGRAMS)
DEFAULT_TEMPLATES = ("a photo of a {c}.",)
_BATCH = 64  # most rows a device at a time; fewer are padded to a power of two, so that few programs serve every length
_TEXTS = 16  # the same of texts: fewer, so that each batch is cut closer


class Bundle:
    """A CLIP model ready for use.

    `model` is the NNX module in evaluation mode, `config` the run's resolved Config, `name` what to call it in a
    report, `step` the training step it comes from (None if unknown).
    """

    def __init__(self, model: CLIP, config: Config, *, name: str = "model", step: int | None = None, mesh=None):
        self.model, self.config, self.name, self.step = model, config, name, step
        self._mesh = mesh or make_mesh(MeshConfig(), jax.local_devices())
        self._graph, self._params = nnx.split(model)

    @property
    def logit_scale(self) -> float:
        """The factor of the inner products, exponentiated."""
        return float(np.exp(np.asarray(self.model.logit_scale[...])))

    @functools.cached_property
    def fingerprint(self) -> str:
        """SHA-256 over weights, sizes, preprocessing, tokenizer and precision: equal bundles give equal embeddings."""
        digest = hashlib.sha256()
        for path, leaf in sorted(flatten(self._params).items()):
            digest.update(path.encode())
            digest.update(np.asarray(_whole(leaf)).tobytes())
        said = (text.identity(), model_values(self.config.model), self.config.precision)
        digest.update(repr(said).encode())
        return digest.hexdigest()

    def preprocess(self, image) -> np.ndarray:
        """A path, PIL image or uint8 array as the model's input: float32 [image_size, image_size, 3]."""
        return preprocess(open_image(image), self.config.model.image)

    def tokenize(self, texts: str | Sequence[str]) -> np.ndarray:
        """int32 [n, context_length]. Raises UserError where the model has fewer ids than the tokenizer."""
        size, needed = self.config.model.text.vocab_size, text.END + 1
        if size < needed:
            raise UserError(f"{self.name}: a vocabulary of {size}, CLIP's tokenizer needs {needed}. Give token ids.")
        return text.tokenize(texts, self.config.model.text.context_length)

    def encode_image(self, pictures) -> np.ndarray:
        """Unit rows [n, E] float32 of pictures: paths, PIL images or uint8 arrays; one alone is a list of one."""
        if isinstance(pictures, str | os.PathLike) or hasattr(pictures, "convert"):
            pictures = [pictures]
        if isinstance(pictures, np.ndarray) and pictures.ndim == 3:
            pictures = pictures[None]
        rows = [
            self.encode_pixels(np.stack([self.preprocess(item) for item in part])) for part in _parts(pictures, _BATCH)
        ]
        return np.concatenate(rows) if rows else np.zeros((0, self.config.model.embed_dim), np.float32)

    def encode_pixels(self, pixels: np.ndarray) -> np.ndarray:
        """Unit rows [n, E] float32 of preprocessed pixels [n, height, width, 3] float32."""
        return self._encode(self._image_program, pixels)

    def encode_text(self, texts: str | Sequence[str]) -> np.ndarray:
        """Unit rows [n, E] float32 of texts.

        They are encoded in order of length, each group cut to its longest (text/lengths.py): the same rows for less.
        """
        tokens = self.tokenize(texts)  # [n, L]
        needed = lengths(tokens, self.config.model.text.end_token)  # [n]
        rows = np.zeros((len(tokens), self.config.model.embed_dim), np.float32)
        for part, length in by_length(needed, tokens.shape[1], _TEXTS * self._devices, self._devices):
            rows[part] = self._encode(self._text_program, tokens[part, :length])
        return rows

    def class_embeddings(self, class_names: Sequence, templates: Sequence[str] | None = None) -> np.ndarray:
        """Unit rows [N, E] float32, one a class: each prompt normalised, averaged, normalised again (paper, 3.1.4).

        A class is a name or a list of names; templates hold `{c}` where the name goes. Raises UserError for a template
        without it.
        """
        templates = [templates] if isinstance(templates, str) else list(templates or DEFAULT_TEMPLATES)
        if bad := [template for template in templates if "{c}" not in template]:
            raise UserError(f"template {bad[0]!r}: has no {{c}}, where the class name goes.")
        class_names = [class_names] if isinstance(class_names, str) else class_names
        names = [[item] if isinstance(item, str) else list(item) for item in class_names]
        if not names or not all(names):
            raise UserError(f"class_names: {class_names!r} should be a name or a list of names for each class.")
        prompts = [template.replace("{c}", name) for group in names for name in group for template in templates]
        ends = np.cumsum([len(group) * len(templates) for group in names])
        means = np.stack([part.mean(axis=0) for part in np.split(self.encode_text(prompts), ends[:-1])])
        return means / np.linalg.norm(means, axis=1, keepdims=True)

    def classify(self, pictures, class_names: Sequence, templates: Sequence[str] | None = None) -> np.ndarray:
        """Probabilities [n, N] float32 of the classes for each picture."""
        logits = self.logit_scale * self.encode_image(pictures) @ self.class_embeddings(class_names, templates).T
        weights = np.exp(logits - logits.max(axis=1, keepdims=True))
        return weights / weights.sum(axis=1, keepdims=True)

    def greatest(self, values: Sequence[int]) -> np.ndarray:
        """The greatest of each whole number [n] over the processes that encode together, which all call this."""
        return np.asarray(greatest(self._mesh, values) if self._mesh.is_multi_process else values, np.int32)

    @property
    def _devices(self) -> int:
        """Among how many devices the rows of a batch are divided."""
        return self._mesh.shape["data"] * self._mesh.shape["fsdp"]

    def weights(self) -> weights.Weights:
        """The model as a table, `{path: float32 array}` with one entry a layer, and what else a file needs to say."""
        leaves = {path: np.asarray(_whole(leaf)) for path, leaf in flatten(self._params).items()}
        return weights.Weights(unstack_layers(leaves), self.config.model, self.name, (), "orbax")

    def with_arrays(self, arrays: dict[str, np.ndarray], name: str) -> "Bundle":
        """The same model with other numbers, a table as in `weights`; the two share their compiled programs."""
        params, stats = jax.device_put(halves(self.config, arrays), replicated(self._mesh))
        other = Bundle(merge(self.config, params, stats), self.config, name=name, mesh=self._mesh)
        other._image_program, other._text_program = self._image_program, self._text_program
        return other

    def save(self, destination: str | os.PathLike, format: str = "orbax") -> None:
        """Write the model, whole or not at all, as one of `FORMATS`.

        Raises UserError for an unknown format, for a model that the format cannot hold, and where something stands at
        `destination` already.
        """
        if format not in FORMATS:
            raise UserError(f"format: {format!r} found, one of {', '.join(FORMATS)} expected.")
        if format == "orbax":
            params, stats = halves(self.config, self.weights().arrays)
            checkpoints.write(destination, self.config, params, stats)
        else:
            weights.write(format, destination, self.weights())

    def _encode(self, program, rows: np.ndarray) -> np.ndarray:
        devices = self._devices
        parts = []
        for part in _parts(rows, _BATCH * devices):
            count = devices * (1 << (-(-len(part) // devices) - 1).bit_length())
            padded = np.concatenate([part, np.repeat(part[-1:], count - len(part), axis=0)])
            here = local_rows(self._mesh, count)
            placed = place_rows(self._mesh, padded[here], here, count)
            parts.append(np.asarray(program(self._params, placed))[: len(part)])
        return np.concatenate(parts) if parts else np.zeros((0, self.config.model.embed_dim), np.float32)

    @functools.cached_property
    def _image_program(self):
        return self._program(lambda model, pixels: model.encode_image(pixels))

    @functools.cached_property
    def _text_program(self):
        return self._program(lambda model, tokens: model.encode_text(tokens))

    def _program(self, encode):
        graph, mesh = self._graph, self._mesh
        keep_freed_memory()

        def unit_rows(params, rows):
            with traced_on(mesh):
                return unit(encode(nnx.merge(graph, params), rows))

        return jax.jit(unit_rows, out_shardings=replicated(mesh))


def load(source: str | os.PathLike, *, activation: str | None = None) -> Bundle:
    """The Bundle of a checkpoint: a run's working directory (newest complete step), one `checkpoints/STEP`, or weights
    of another program in a form that `weights.read` knows (a file, a folder, `hf:owner/name`).

    `activation` ("quick_gelu" or "gelu") settles what a bare file cannot say. Raises UserError for anything else, for
    parameters that do not fit the model, and for an activation that is not the checkpoint's.
    """
    if weights.is_foreign(source):
        found = weights.read(source, activation=activation)
        for line in found.notes:
            say(f"{source}: {line}")
        config = Config(model=found.model, loss=LossConfig("sigmoid" if "logit_bias" in found.arrays else "softmax"))
        return _bundle(config, *halves(config, found.arrays), name=str(source), step=None)
    saved = checkpoints.read(source)
    _check_tokenizer(saved)
    check_fit(saved, saved.config)
    known = saved.config.model.activation
    if activation not in (None, known):
        raise UserError(f"{source}: the checkpoint says activation {known}, activation={activation!r} was asked for.")
    name = str(source) if saved.path == pathlib.Path(source).absolute() else f"{source} step {saved.step}"
    return _bundle(saved.config, saved.params, saved.batch_stats, name=name, step=saved.step)


def convert(
    source: str | os.PathLike, destination: str | os.PathLike, to: str, *, activation: str | None = None
) -> dict[str, Any]:
    """Write the model at `source` in the format `to`, read it back, and store and return the parity note.

    The note says how far features moved, on inputs stored beside it (`weights/parity.py`). Raises UserError as `load`
    and `Bundle.save` do.
    """
    bundle = load(source, activation=activation)
    bundle.save(destination, to)
    path, model = pathlib.Path(destination), bundle.config.model
    if to in weights.PROGRAMS:
        after = weights.programs(to, path)
    elif to in weights.FORMATS:
        after = encoders(weights.read(path, activation=model.activation))
    else:
        after = encoders(load(path).weights())
    return parity.note(path, to, bundle.name, model, encoders(bundle.weights()), after)


def halves(config: Config, arrays: dict[str, np.ndarray]) -> tuple[dict, dict]:
    """(parameters, running averages), nested and stacked, of a table with one entry a layer."""
    _, params, _ = abstract_module(config)
    stacked, own = stack_layers(arrays), flatten(params).keys()
    parts = ({path: leaf for path, leaf in stacked.items() if (path in own) == wanted} for wanted in (True, False))
    params, stats = map(unflatten, parts)
    return params, stats


@functools.cache
def abstract_module(config: Config, *, unroll=1) -> tuple:
    """(graph, parameters, running averages) of a config's module, shapes only, without memory; unroll: see CLIP."""
    left_out = dict(dropout=config.dropout, patch_dropout=config.patch_dropout)
    options = dict(dtype=policy(config).compute, remat=config.remat, unroll=unroll, loss=config.loss.kind)
    model = nnx.eval_shape(lambda: CLIP(config.model, **options, **left_out))
    return nnx.split(model, nnx.Param, nnx.BatchStat)


def merge(config: Config, params: dict, batch_stats: dict) -> CLIP:
    """The module of a config with these parameters and running averages (nested dicts), in evaluation mode."""
    model = nnx.merge(abstract_module(config)[0], params, batch_stats)
    model.eval()
    return model


def check_fit(saved: checkpoints.Saved, config: Config) -> None:
    """Raise UserError, listing every tensor, where a checkpoint's parameters are not those of the config's model."""
    _, params, stats = abstract_module(config)
    wanted = {**flatten(params), **flatten(stats)}
    found = {**flatten(saved.params), **flatten(saved.batch_stats)}
    rows = [f"{path} is missing" for path in wanted.keys() - found.keys()]
    rows += [f"{path} is not part of the model" for path in found.keys() - wanted.keys()]
    rows += [
        f"{path} is {found[path].shape}, expected {wanted[path].shape}"
        for path in wanted.keys() & found.keys()
        if found[path].shape != wanted[path].shape
    ]
    if rows:
        raise UserError(f"{saved.path}: " + "; ".join(sorted(rows)) + ".")


def _bundle(config: Config, params: dict, stats: dict, *, name: str, step: int | None) -> Bundle:
    mesh = make_mesh(MeshConfig(), jax.local_devices())
    params, stats = jax.device_put((params, stats), replicated(mesh))
    return Bundle(merge(config, params, stats), config, name=name, step=step, mesh=mesh)


def _check_tokenizer(saved: checkpoints.Saved) -> None:
    theirs, ours = saved.metadata["tokenizer"].get("sha256"), text.identity()["sha256"]
    if theirs != ours:
        raise UserError(f"{saved.path}: made with a tokenizer of sha256 {theirs}, this program has {ours}.")


def _whole(leaf):
    """The array with all its parts on this process."""
    if getattr(leaf, "is_fully_addressable", True) or leaf.is_fully_replicated:
        return leaf
    from jax.experimental import multihost_utils

    return multihost_utils.process_allgather(leaf, tiled=True)


def _parts(rows, size: int) -> Iterator:
    for first in range(0, len(rows), size):
        yield rows[first : first + size]
