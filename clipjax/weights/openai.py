"""The names of CLIP's release, which open_clip shares: a bare file of them in, the release's state dict out."""

import math
import pathlib
import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from clipjax.config import ImageConfig, ModelConfig, TextConfig
from clipjax.errors import UserError
from clipjax.weights import Weights, safetensors, table, torch_file, torch_write
from clipjax.weights.table import CONVOLUTION, FUSED_QKV, FUSED_QKV_BIAS, POINTWISE, TRANSPOSED, Row

IGNORE = r"(.*\.)?attn_mask|.*\.num_batches_tracked|input_resolution|context_length|vocab_size"
_EXTRAS = ("input_resolution", "context_length", "vocab_size")  # whole numbers that only the release's files hold
_BLOCKS = r"resblocks\.(\d+)\."


def _norm(ours: str, theirs: str) -> list[Row]:
    return [Row(f"{ours}/scale", f"{theirs}.weight"), Row(f"{ours}/bias", f"{theirs}.bias")]


def _linear(ours: str, theirs: str) -> list[Row]:
    return [Row(f"{ours}/kernel", f"{theirs}.weight", TRANSPOSED), Row(f"{ours}/bias", f"{theirs}.bias")]


def _transformer(ours: str, theirs: str) -> list[Row]:
    ours, theirs = f"{ours}/blocks/{{i}}", f"{theirs}.resblocks.{{i}}"
    return [
        Row(f"{ours}/attention/qkv/kernel", f"{theirs}.attn.in_proj_weight", FUSED_QKV),
        Row(f"{ours}/attention/qkv/bias", f"{theirs}.attn.in_proj_bias", FUSED_QKV_BIAS),
        *_linear(f"{ours}/attention/out", f"{theirs}.attn.out_proj"),
        *_norm(f"{ours}/ln_1", f"{theirs}.ln_1"),
        *_linear(f"{ours}/mlp/fc", f"{theirs}.mlp.c_fc"),
        *_linear(f"{ours}/mlp/proj", f"{theirs}.mlp.c_proj"),
        *_norm(f"{ours}/ln_2", f"{theirs}.ln_2"),
    ]


def _batch_norm(ours: str, theirs: str) -> list[Row]:
    averages = [Row(f"{ours}/mean", f"{theirs}.running_mean"), Row(f"{ours}/var", f"{theirs}.running_var")]
    return _norm(ours, theirs) + averages


def _bottleneck(ours: str, theirs: str) -> list[Row]:
    rows = []
    for n, layout in ((1, POINTWISE), (2, CONVOLUTION), (3, POINTWISE)):
        rows.append(Row(f"{ours}/conv{n}/kernel", f"{theirs}.conv{n}.weight", layout))
        rows += _batch_norm(f"{ours}/bn{n}", f"{theirs}.bn{n}")
    return rows


def _resnet() -> list[Row]:
    rows = []
    for n in (1, 2, 3):
        rows.append(Row(f"image/stem/conv{n}/kernel", f"visual.conv{n}.weight", CONVOLUTION))
        rows += _batch_norm(f"image/stem/bn{n}", f"visual.bn{n}")
    for stage in (1, 2, 3, 4):
        ours, theirs = f"image/stage{stage}", f"visual.layer{stage}"
        rows += _bottleneck(f"{ours}/first", f"{theirs}.0")
        rows.append(Row(f"{ours}/first/shortcut/conv/kernel", f"{theirs}.0.downsample.0.weight", POINTWISE))
        rows += _batch_norm(f"{ours}/first/shortcut/bn", f"{theirs}.0.downsample.1")
        rows += _bottleneck(f"{ours}/blocks/{{i}}", f"{theirs}.{{i+1}}")
    rows.append(Row("image/pool/positional_embedding", "visual.attnpool.positional_embedding"))
    for ours, theirs in (("key", "k_proj"), ("query", "q_proj"), ("value", "v_proj"), ("projection", "c_proj")):
        rows += _linear(f"image/pool/{ours}", f"visual.attnpool.{theirs}")
    return rows


TABLE = (
    Row("text/positional_embedding", "positional_embedding"),
    Row("text/projection/kernel", "text_projection"),  # [W, E] already
    Row("logit_scale", "logit_scale"),
    Row("logit_bias", "logit_bias"),  # open_clip's models for the sigmoid loss
    Row("image/class_embedding", "visual.class_embedding"),
    Row("image/positional_embedding", "visual.positional_embedding"),
    Row("image/projection/kernel", "visual.proj"),
    Row("image/patch/kernel", "visual.conv1.weight", CONVOLUTION),
    *_norm("image/ln_pre", "visual.ln_pre"),
    *_transformer("image", "visual.transformer"),
    *_norm("image/ln_post", "visual.ln_post"),
    *_resnet(),
    *_transformer("text", "transformer"),
    Row("text/token_embedding", "token_embedding.weight"),
    *_norm("text/ln_final", "ln_final"),
)


def read(path: pathlib.Path, activation: str | None) -> Weights:
    """A bare file: the released archive, a state dict, or a training checkpoint that holds one; torch or safetensors.

    The sizes are told from the shapes. The release's own files compute QuickGELU; for any other `activation` must say.
    """
    tensors, said = load(path)
    model = infer(tensors, activation or said or "", str(path))
    if activation and said and activation != said:
        raise UserError(f"{path}: computes {said}, activation={activation!r} was asked for. Leave it out.")
    if not model.activation:
        raise UserError(
            f"{path}: does not say which activation it was trained with, and a wrong one only lowers the accuracy. "
            'Give activation="quick_gelu" (OpenAI\'s weights) or activation="gelu" (most of open_clip\'s).'
        )
    notes = ("the file says nothing of preprocessing and tokenizer: CLIP's own are used",)
    if not model.preset:
        heads = f"{model.image.heads} for pictures, {model.text.heads} for texts"
        notes += (f"the file does not say how many heads attend: {heads}, as such widths have elsewhere",)
    return Weights(arrays_of(tensors, model, str(path)), model, path.name, notes, "openai")


def write(path: pathlib.Path, weights: Weights) -> None:
    """The release's state dict in float32, its keys in the release's order, for `torch.load` and `clip.load`."""
    table.refuse("openai", _not_representable(weights.model))
    model = weights.model
    sizes = (model.image.image_size, model.text.context_length, model.text.vocab_size)
    extras = {name: np.array(size, np.int64) for name, size in zip(_EXTRAS, sizes, strict=True)}
    items = list(state_dict(weights.arrays).items())
    own = 1 + [key for key, _ in items].index("logit_scale")  # a module's buffers follow its own parameters
    torch_write.write(path, {**dict(items[:own]), **extras, **dict(items[own:])})


def arrays_of(tensors: Mapping[str, Any], model: ModelConfig, source: str) -> dict[str, np.ndarray]:
    """Our arrays, one entry a layer, of a state dict in the release's names, and open_clip's logit_bias if it has one.

    Raises UserError as `table.read` does.
    """
    also = {"logit_bias": ()} if "logit_bias" in tensors else {}
    return table.read(TABLE, tensors, model, source, IGNORE, also)


def state_dict(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """{their key: array} of our arrays, one entry a layer, as torch's module would list them."""
    tensors: dict[str, np.ndarray] = {}
    for key, tensor in table.write(TABLE, arrays).items():
        tensors[key] = tensor
        if key.endswith(".running_var"):  # torch's count of training steps, which nothing reads
            tensors[key.replace("running_var", "num_batches_tracked")] = np.zeros((), np.int64)
    return tensors


def load(path: pathlib.Path) -> tuple[dict[str, Any], str | None]:
    """A file's tensors under the release's names, and the activation if it is known from what kind of file it is.

    The prefixes of torch's wrappers (`module.`) and of open_clip's custom text towers (`text.`) are taken off.
    """
    with path.open("rb") as file:
        head = file.read(9)
    if head[8:] == b"{" or (path.suffix == ".safetensors" and head[:2] != b"PK"):
        tensors, said = safetensors.read(path), None
    else:
        found = torch_file.read(path)
        tensors, said = found.tensors, _said(found)
    tensors = table.rename(tensors, lambda key: re.sub(r"^((module|_orig_mod)\.)+", "", key), str(path))
    said = said or ("quick_gelu" if tensors.keys() >= set(_EXTRAS) else None)
    return table.rename(tensors, lambda key: key.removeprefix("text."), str(path)), said


def infer(tensors: Mapping[str, Any], activation: str, source: str) -> ModelConfig:
    """The model that has tensors of these shapes; CLIP's preprocessing and width of heads, the last token ends.

    Raises UserError where the tensors that tell the sizes are missing or of no CLIP.
    """
    kinds = {  # the tensors that tell, and their axes
        "positional_embedding": 2,
        "token_embedding.weight": 2,
        "text_projection": 2,
        "visual.conv1.weight": 4,
    }
    if "visual.proj" in tensors:
        kinds["visual.positional_embedding"] = 2
    else:
        kinds |= {"visual.layer1.0.conv1.weight": 4, "visual.attnpool.positional_embedding": 2}
    _check_kinds(tensors, kinds, source)
    context, text_width = tensors["positional_embedding"].shape
    vocabulary = tensors["token_embedding.weight"].shape[0]
    image = _vit_sizes(tensors) if "visual.proj" in tensors else _resnet_sizes(tensors)
    rows = [
        f"{name} width {width}: not a multiple of 64, the width of a head"
        for name, width in (("image", image.width), ("text", text_width))
        if width % 64 and not (name == "image" and image.stages)
    ]
    table.refuse(source, rows)
    layers = _count(tensors, rf"transformer\.{_BLOCKS}")
    text = TextConfig(context, vocabulary, text_width, layers, text_width // 64, end_token=table.end_token(vocabulary))
    embed_dim = tensors["text_projection"].shape[1]
    return table.named(ModelConfig(embed_dim=embed_dim, activation=activation, image=image, text=text))


def _said(found: torch_file.TorchFile) -> str | None:
    """The activation that the classes of a TorchScript model name; the release's is QuickGELU without a name for it."""
    if found.kind != "TorchScript":
        return None
    names = {name.split(" ")[-1] for name in found.classes}
    return "gelu" if "GELU" in names and "QuickGELU" not in names else "quick_gelu"


def _check_kinds(tensors: Mapping[str, Any], kinds: dict[str, int], source: str) -> None:
    missing = [key for key in kinds if key not in tensors]
    if any(key.startswith(("text_model.", "vision_model.")) for key in tensors):
        raise UserError(f"{source}: in the names of Hugging Face's transformers. Give its folder, with config.json.")
    if len(missing) == len(kinds):
        raise UserError(f"{source}: not a CLIP: {', '.join(kinds)} expected, {_names(tensors)} found.")
    table.refuse(
        source,
        [f"{key} is missing" for key in missing]
        + [
            f"{key} is {list(tensors[key].shape)}, {axes} axes expected"
            for key, axes in kinds.items()
            if key in tensors and tensors[key].ndim != axes
        ],
    )


def _vit_sizes(tensors: Mapping[str, Any]) -> ImageConfig:
    width, _, _, patch = tensors["visual.conv1.weight"].shape
    grid = math.isqrt(max(tensors["visual.positional_embedding"].shape[0] - 1, 0))
    layers = _count(tensors, rf"visual\.transformer\.{_BLOCKS}")
    # no shape tells the width of a head: 64 in all that the release's code computes, 80 in open_clip's ViT-H
    head_width = 80 if width == 1280 and not tensors.keys() >= set(_EXTRAS) else 64
    return ImageConfig(grid * patch, patch, width, layers, width // head_width)


def _resnet_sizes(tensors: Mapping[str, Any]) -> ImageConfig:
    width = tensors["visual.layer1.0.conv1.weight"].shape[0]
    side = math.isqrt(max(tensors["visual.attnpool.positional_embedding"].shape[0] - 1, 0))
    stages = tuple(_count(tensors, rf"visual\.layer{stage}\.(\d+)\.") for stage in (1, 2, 3, 4))
    return ImageConfig(32 * side, 32, width, 0, width // 2, kind="resnet", stages=stages)


def _count(tensors: Mapping[str, Any], pattern: str) -> int:
    """One more than the largest index in the keys that begin with the pattern."""
    return max((int(found[1]) + 1 for key in tensors if (found := re.match(pattern, key))), default=0)


def _not_representable(model: ModelConfig) -> list[str]:
    """What the release's files cannot say: there is no place for it, its code takes it for granted."""
    image, text, own = model.image, model.text, ImageConfig()
    wanted = [
        ("activation", model.activation, "quick_gelu"),
        *((f"image.{name}", getattr(image, name), getattr(own, name)) for name in table.PREPROCESSING),
        ("image.heads", image.heads, image.width // (2 if image.kind == "resnet" else 64)),
        ("text.heads", text.heads, text.width // 64),
        ("text.end_token", text.end_token, table.end_token(text.vocab_size)),
    ]
    return [f"{name} is {value!r}, the release has {other!r}" for name, value, other in wanted if value != other]


def _names(tensors: Mapping[str, Any]) -> str:
    return ", ".join(list(tensors)[:4])[:200] or "nothing"
