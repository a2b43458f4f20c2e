"""Folders of open_clip: `open_clip_config.json` and a state dict in the release's names, plain or `text.`-prefixed.

What its config can ask for and this model cannot compute is refused by name (open_clip 3.3, `model.py`).
"""

import math
import pathlib
from typing import Any

from clipjax.config import ImageConfig, ModelConfig, TextConfig
from clipjax.config.model import OPENAI_MEAN, OPENAI_STD
from clipjax.errors import UserError
from clipjax.weights import Weights, json_file, openai, safetensors, table, tokenizer_files

CONFIG = "open_clip_config.json"
WEIGHTS = (  # the order in which open_clip looks for them
    "open_clip_model.safetensors",
    "open_clip_pytorch_model.safetensors",
    "open_clip_pytorch_model.bin",
    "open_clip_pytorch_model.pth",
    "model.safetensors",
    "pytorch_model.bin",
    "pytorch_model.pth",
    "model.pth",
)

# The values that leave a block as CLIP's is; None and {} always do. Any other is refused.
_BLOCK = {
    "mlp_ratio": 4.0,
    "ls_init_value": None,
    "act_kwargs": None,
    "norm_kwargs": {"eps": 1e-5},
    "block_type": "default",
    "qk_norm": False,
    "scaled_cosine_attn": False,
    "scale_heads": False,
    "scale_attn_inner": False,
    "scale_attn": False,
    "scale_fc": False,
    "final_ln_after_pool": False,
}
_MODEL = {"multimodal_cfg": None}
_IMAGE = {
    **_BLOCK,
    "attentional_pool": False,
    "no_ln_pre": False,
    "pool_type": "tok",
    "pos_embed_type": "learnable",
    "timm_model_name": None,
}
_TEXT = {
    **_BLOCK,
    "embed_cls": False,
    "no_causal_mask": False,
    "proj_bias": False,
    "proj_type": "linear",
    "hf_model_name": None,
    "hf_tokenizer_name": None,
    "tokenizer_mode": None,
    "tokenizer_kwargs": None,
}
# Keys read below, and those that change nothing of what a loaded model computes.
_READ_MODEL = {"embed_dim", "quick_gelu", "vision_cfg", "text_cfg"}
_FREE_MODEL = {
    "custom_text",
    "init_logit_scale",
    "init_logit_bias",
    "nonscalar_logit_scale",
    "output_dict",
    "cast_dtype",
}
_READ_IMAGE = {"image_size", "layers", "width", "head_width", "patch_size"}
_FREE_IMAGE = {"patch_dropout", "output_tokens", "attn_pooler_queries", "attn_pooler_heads", "n_queries"}
_FREE_IMAGE |= {f"timm_{name}" for name in ("model_pretrained", "pool", "proj", "proj_bias", "drop", "drop_path")}
_READ_TEXT = {"context_length", "vocab_size", "width", "heads", "layers", "pool_type", "eos_id"}
_FREE_TEXT = {"pad_id", "output_tokens", "hf_model_pretrained", "hf_proj_type", "hf_pooler_type"}


def read(path: pathlib.Path, activation: str | None) -> Weights:
    """A folder, or one weights file in it. Without `open_clip_config.json` the file is read as a bare one."""
    folder = path if path.is_dir() else path.parent
    file = path if path.is_file() else _weights_file(folder)
    config = folder / CONFIG
    if not config.is_file():
        return openai.read(file, activation)._replace(format="open_clip")
    plain = json_file.read(config)
    model = model_config(plain, str(config))
    notes = tokenizer_files.check(folder)
    if not plain.get("preprocess_cfg"):
        notes = (f"no preprocess_cfg in {CONFIG}: CLIP's own preprocessing is used", *notes)
    tensors, said = openai.load(file)
    for where, other in ((f"{file} computes", said), ("what was asked for is activation =", activation)):
        if other and other != model.activation:
            raise UserError(f"{config}: says {model.activation}, {where} {other}. A wrong one lowers the accuracy.")
    return Weights(openai.arrays_of(tensors, model, str(file)), model, folder.name, notes, "open_clip")


def write(path: pathlib.Path, weights: Weights) -> None:
    """A folder that open_clip loads as `local-dir:PATH`: its config and a safetensors file in plain key form."""
    model, image, text = weights.model, weights.model.image, weights.model.text
    resnet = image.kind == "resnet"
    pooled = (
        {} if text.end_token == table.end_token(text.vocab_size) else {"pool_type": "eos", "eos_id": text.end_token}
    )
    config = {
        "model_cfg": {
            "embed_dim": model.embed_dim,
            "quick_gelu": model.activation == "quick_gelu",
            **({"init_logit_bias": -10.0} if "logit_bias" in weights.arrays else {}),  # or open_clip makes none
            "vision_cfg": {
                "image_size": image.image_size,
                "layers": list(image.stages) if resnet else image.layers,
                "width": image.width,
                "head_width": image.width * (32 if resnet else 1) // image.heads,
                "patch_size": None if resnet else image.patch_size,
            },
            "text_cfg": {
                **{name: getattr(text, name) for name in ("context_length", "vocab_size", "width", "heads", "layers")},
                **pooled,
            },
        },
        "preprocess_cfg": {
            "mean": list(image.mean),
            "std": list(image.std),
            "interpolation": image.interpolation,
            "resize_mode": image.resize_mode,
        },
    }
    path.mkdir()
    json_file.write(path / CONFIG, config)
    safetensors.write(path / WEIGHTS[0], openai.state_dict(weights.arrays))


def model_config(plain: dict[str, Any], where: str) -> ModelConfig:
    """The model that an `open_clip_config.json` describes. Raises UserError that names every key it cannot follow."""
    model = json_file.section(plain, "model_cfg", where)
    image = json_file.section(model, "vision_cfg", where)
    text = json_file.section(model, "text_cfg", where)
    rows = _strange("model_cfg", model, _MODEL, _READ_MODEL | _FREE_MODEL)
    rows += _strange("model_cfg.vision_cfg", image, _IMAGE, _READ_IMAGE | _FREE_IMAGE)
    rows += _strange("model_cfg.text_cfg", text, _TEXT, _READ_TEXT | _FREE_TEXT)
    pooled = text.get("pool_type", "argmax")
    if pooled not in ("argmax", "eos"):
        rows.append(f"model_cfg.text_cfg.pool_type is {pooled!r:.40}, 'argmax' or 'eos' expected")
    if not isinstance(model.get("quick_gelu", False), bool):
        rows.append(f"model_cfg.quick_gelu is {model['quick_gelu']!r:.40}, true or false expected")
    numbers = _Numbers(rows)
    vocabulary = numbers.get("text_cfg", text, "vocab_size", 49408)
    result = ModelConfig(
        embed_dim=numbers.get("model_cfg", model, "embed_dim", None),
        activation="quick_gelu" if model.get("quick_gelu") else "gelu",
        image=_image_config(image, json_file.section(plain, "preprocess_cfg", where), numbers),
        text=TextConfig(
            context_length=numbers.get("text_cfg", text, "context_length", 77),
            vocab_size=vocabulary,
            width=numbers.get("text_cfg", text, "width", 512),
            layers=numbers.get("text_cfg", text, "layers", 12),
            heads=numbers.get("text_cfg", text, "heads", 8),
            end_token=table.end_token(vocabulary) if pooled == "argmax" else numbers.get("text_cfg", text, "eos_id", 2),
        ),
    )
    table.refuse(where, rows)
    return table.named(result)


class _Numbers:
    """Whole numbers out of sections; what is none becomes a row, and 1."""

    def __init__(self, rows: list[str]):
        self.rows = rows

    def get(self, name: str, section: dict[str, Any], key: str, default: int | None) -> int:
        value = default if section.get(key) is None else section[key]
        if isinstance(value, list) and len(value) == 2 and value[0] == value[1]:
            value = value[0]  # height and width
        if type(value) is not int or value < 0:
            self.rows.append(f"{name}.{key} is {value!r:.40}, a whole number expected")
            return 1
        return value


def _image_config(image: dict[str, Any], shown: dict[str, Any], numbers: _Numbers) -> ImageConfig:
    """The image tower and its preprocessing, `shown`."""
    width, head = (numbers.get("vision_cfg", image, *row) for row in (("width", 768), ("head_width", 64)))
    size, layers = numbers.get("vision_cfg", image, "image_size", 224), image.get("layers")
    channels = 32 * width if isinstance(layers, list) else width  # a ResNet's heads are those of its attention pool
    if head < 1 or channels % head:
        numbers.rows.append(f"vision_cfg.head_width is {head}, which does not divide width {channels}")
        head = channels or 1
    preprocessing: dict[str, Any] = dict(
        mean=_colours(shown, "mean", OPENAI_MEAN, numbers.rows),
        std=_colours(shown, "std", OPENAI_STD, numbers.rows),
        interpolation=shown.get("interpolation") or "bicubic",
        resize_mode=shown.get("resize_mode") or "shortest",
    )
    if shown.get("mode", "RGB") != "RGB":
        numbers.rows.append(f"preprocess_cfg.mode is {shown['mode']!r:.40}, 'RGB' expected")
    if isinstance(layers, list):
        if not all(type(blocks) is int for blocks in layers):
            numbers.rows.append(f"vision_cfg.layers is {layers!r:.40}, whole numbers expected")
        return ImageConfig(size, 32, width, 0, channels // head, kind="resnet", stages=tuple(layers), **preprocessing)
    patch, layers = (numbers.get("vision_cfg", image, *row) for row in (("patch_size", 16), ("layers", 12)))
    return ImageConfig(size, patch, width, layers, channels // head, **preprocessing)


def _colours(section: dict[str, Any], key: str, default: tuple[float, ...], rows: list[str]) -> tuple[float, ...]:
    """Three numbers, one a channel; a single one stands for all."""
    value = default if section.get(key) is None else section[key]
    value = list(value) if isinstance(value, list | tuple) else [value] * 3
    if len(value) != 3 or not all(type(number) in (int, float) and math.isfinite(number) for number in value):
        rows.append(f"preprocess_cfg.{key} is {value!r:.40}, three numbers expected")
        return default
    return tuple(map(float, value))


def _strange(name: str, section: dict[str, Any], neutral: dict[str, Any], known: set[str]) -> list[str]:
    """A row for each key that asks for another model than CLIP, and for each that is not known here."""
    rows = []
    for key, value in section.items():
        if key in known or value is None or value == {} or (key in neutral and value == neutral[key]):
            continue
        reason = f"{neutral[key]!r} expected" if key in neutral else "not known here"
        rows.append(f"{name}.{key} is {value!r:.60}, {reason}")
    return rows


def _weights_file(folder: pathlib.Path) -> pathlib.Path:
    for name in WEIGHTS:
        if (folder / name).is_file():
            return folder / name
    raise UserError(f"{folder}: has no weights, expected one of {', '.join(WEIGHTS)}.")
