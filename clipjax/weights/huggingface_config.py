"""config.json and preprocessor_config.json of a transformers CLIPModel, to a ModelConfig and back."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

from clipjax import text
from clipjax.config import ImageConfig, ModelConfig, TextConfig
from clipjax.errors import UserError
from clipjax.weights import json_file
from clipjax.weights.table import end_token, refuse

# What transformers takes for a key that the file leaves out: configuration_clip.py
_TEXT = {
    "vocab_size": 49408,
    "hidden_size": 512,
    "intermediate_size": 2048,
    "num_hidden_layers": 12,
    "num_attention_heads": 8,
    "max_position_embeddings": 77,
    "hidden_act": "quick_gelu",
    "layer_norm_eps": 1e-5,
    "eos_token_id": text.END,
}
_IMAGE = {
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "num_channels": 3,
    "image_size": 224,
    "patch_size": 32,
    "hidden_act": "quick_gelu",
    "layer_norm_eps": 1e-5,
}
_LEGACY_END = 2  # old conversions carry it; transformers then pools at the largest id, which is CLIP's end
_RESAMPLE = {2: "bilinear", 3: "bicubic"}
_PROCESSORS = ("CLIPImageProcessor", "CLIPImageProcessorFast", "CLIPImageProcessorPil", "CLIPFeatureExtractor")
_STEPS = ("do_resize", "do_center_crop", "do_rescale", "do_normalize")
_LISTED = 60  # characters of a value in a message


def read_config(plain: Mapping[str, Any], where: str) -> ModelConfig:
    """The model that a config.json describes, with CLIP's own preprocessing.

    Raises UserError, listing all, for a model that is not CLIP and for what this program's CLIP cannot express.
    """
    kind = plain.get("model_type")
    if kind != "clip":
        raise UserError(f"{where}: model_type is {kind!r:.60}, a model that is not CLIP; expected 'clip'.")
    rows: list[str] = []
    words = _section(plain, "text_config", _TEXT, where, rows)
    image = _section(plain, "vision_config", _IMAGE, where, rows)
    embed_dim = _value(plain, "projection_dim", 512, rows)
    refuse(where, rows)
    rows = [
        row for name, section in (("text_config", words), ("vision_config", image)) for row in _foreign(name, section)
    ]
    if words["hidden_act"] != image["hidden_act"]:
        rows.append(f"text_config.hidden_act is {words['hidden_act']!r}, vision_config's {image['hidden_act']!r}")
    if image["num_channels"] != 3:
        rows.append(f"vision_config.num_channels is {image['num_channels']}, 3 expected")
    if plain.get("quantization_config") is not None:
        rows.append("quantization_config: quantised weights cannot be read")
    end = _end_token(words, rows)
    refuse(where, rows)
    return ModelConfig(
        preset="",
        embed_dim=embed_dim,
        activation=words["hidden_act"],
        image=ImageConfig(
            image_size=image["image_size"],
            patch_size=image["patch_size"],
            width=image["hidden_size"],
            layers=image["num_hidden_layers"],
            heads=image["num_attention_heads"],
        ),
        text=TextConfig(
            context_length=words["max_position_embeddings"],
            vocab_size=words["vocab_size"],
            width=words["hidden_size"],
            layers=words["num_hidden_layers"],
            heads=words["num_attention_heads"],
            end_token=end,
        ),
    )


def write_config(model: ModelConfig) -> dict[str, Any]:
    """The config.json of a model. Raises UserError for what transformers' CLIPModel cannot express."""
    if model.image.kind != "vit":
        raise UserError(
            f"huggingface: {model.preset or 'a ResNet'} has a ResNet as image tower, which transformers' CLIPModel "
            f"does not have. Write openai or open_clip."
        )
    if model.text.end_token == _LEGACY_END:
        raise UserError(f"huggingface: end_token={_LEGACY_END} means another thing to transformers.")
    if model.text.end_token != text.END == end_token(model.text.vocab_size):
        raise UserError(
            f"huggingface: end_token={model.text.end_token} ends no text of the tokenizer that is written, {text.END} "
            "does. Write open_clip."
        )
    towers = dict(hidden_act=model.activation, layer_norm_eps=1e-5, attention_dropout=0.0)
    towers |= dict(projection_dim=model.embed_dim, initializer_factor=1.0, initializer_range=0.02)
    return {
        "architectures": ["CLIPModel"],
        "model_type": "clip",
        "torch_dtype": "float32",
        "projection_dim": model.embed_dim,
        "logit_scale_init_value": 2.6592,
        "initializer_factor": 1.0,
        "text_config": {
            "model_type": "clip_text_model",
            "vocab_size": model.text.vocab_size,
            "max_position_embeddings": model.text.context_length,
            **_sizes(model.text),
            "bos_token_id": text.START,
            "eos_token_id": model.text.end_token,
            "pad_token_id": model.text.end_token,  # as the tokenizer that goes with it pads
            **towers,
        },
        "vision_config": {
            "model_type": "clip_vision_model",
            "image_size": model.image.image_size,
            "patch_size": model.image.patch_size,
            "num_channels": 3,
            **_sizes(model.image),
            **towers,
        },
    }


def with_preprocessing(model: ModelConfig, plain: Mapping[str, Any], where: str) -> ModelConfig:
    """The model with the preprocessing of a preprocessor_config.json, in its present or its older form.

    Raises UserError, listing all, for preprocessing that this program does not do.
    """
    rows: list[str] = []
    kind = plain.get("image_processor_type", plain.get("feature_extractor_type", _PROCESSORS[0]))
    if kind not in _PROCESSORS:
        rows.append(f"{kind!r:.60} is not CLIP's preprocessing")
    for step in _STEPS:
        if plain.get(step, True) is not True:
            rows.append(f"{step} is {plain[step]!r:.60}, true expected")
    factor = plain.get("rescale_factor", 1 / 255)
    if not _is_number(factor) or not math.isclose(factor, 1 / 255, rel_tol=1e-6):
        rows.append(f"rescale_factor is {factor!r:.60}, 1/255 expected")
    resample = plain.get("resample", 3)
    if type(resample) is not int or resample not in _RESAMPLE:
        rows.append(f"resample is {resample!r:.60}, 2 (bilinear) or 3 (bicubic) expected")
    colours = {}
    for name, default in (("image_mean", model.image.mean), ("image_std", model.image.std)):
        colours[name] = plain.get(name, default)
        if not isinstance(colours[name], list | tuple) or not all(map(_is_number, colours[name])):
            rows.append(f"{name} is {colours[name]!r:.60}, a list of numbers expected")
    size = model.image.image_size
    crop = plain.get("crop_size", 224)
    if crop != size and crop != {"height": size, "width": size}:
        rows.append(f"crop_size is {crop!r:.60}, {size} expected, the model's image_size")
    resized = plain.get("size", 224)
    squash = resized == {"height": size, "width": size}
    if not squash and resized != size and resized != {"shortest_edge": size}:
        rows.append(f"size is {resized!r:.60}, {size} expected, the model's image_size, to which pictures are resized")
    refuse(where, rows)
    image = dataclasses.replace(
        model.image,
        mean=tuple(map(float, colours["image_mean"])),
        std=tuple(map(float, colours["image_std"])),
        interpolation=_RESAMPLE[resample],
        resize_mode="squash" if squash else "shortest",
    )
    refuse(where, image.mistakes())
    return dataclasses.replace(model, image=image)


def write_preprocessing(image: ImageConfig) -> dict[str, Any]:
    """The preprocessor_config.json of an image tower."""
    square = {"height": image.image_size, "width": image.image_size}
    return {
        "image_processor_type": "CLIPImageProcessor",
        "processor_class": "CLIPProcessor",
        **dict.fromkeys((*_STEPS, "do_convert_rgb"), True),
        "size": square if image.resize_mode == "squash" else {"shortest_edge": image.image_size},
        "crop_size": square,
        "resample": next(code for code, name in _RESAMPLE.items() if name == image.interpolation),
        "rescale_factor": 1 / 255,
        "image_mean": list(image.mean),
        "image_std": list(image.std),
    }


def _section(plain: Mapping[str, Any], name: str, defaults: dict, where: str, rows: list[str]) -> dict[str, Any]:
    """The keys of a sub-config that matter. An older `…_config_dict` replaces all that it knows, defaults too."""
    stated = json_file.section(plain, name, where)
    if plain.get(f"{name}_dict") is not None:
        stated = {**stated, **defaults, **json_file.section(plain, f"{name}_dict", where)}
    return {key: _value(stated, key, default, rows, f"{name}.") for key, default in defaults.items()}


def _value(stated: Mapping[str, Any], key: str, default: Any, rows: list[str], prefix: str = "") -> Any:
    value = stated.get(key, default)
    if isinstance(value, list) and value and value == value[:1] * len(value) and key in ("image_size", "patch_size"):
        value = value[0]  # [224, 224]
    fits = {
        int: type(value) is int and value >= 0,
        float: _is_number(value),
        str: isinstance(value, str),
    }
    if not fits[type(default)]:
        wanted = {int: "a whole number", float: "a number", str: "a text"}[type(default)]
        rows.append(f"{prefix}{key} is {value!r:.60}, {wanted} expected")
    return value


def _foreign(name: str, section: Mapping[str, Any]) -> list[str]:
    """What a tower may not be."""
    rows = []
    if section["hidden_act"] not in ("quick_gelu", "gelu"):
        rows.append(f"{name}.hidden_act is {section['hidden_act']!r:.60}, 'quick_gelu' or 'gelu' expected")
    if section["intermediate_size"] != 4 * section["hidden_size"]:
        wanted = 4 * section["hidden_size"]
        rows.append(f"{name}.intermediate_size is {section['intermediate_size']}, {wanted} expected (4 x hidden_size)")
    if not math.isclose(section["layer_norm_eps"], 1e-5, rel_tol=1e-6):
        rows.append(f"{name}.layer_norm_eps is {section['layer_norm_eps']}, 1e-05 expected")
    return rows


def _end_token(words: Mapping[str, Any], rows: list[str]) -> int:
    """The id to pool at. A vocabulary that holds CLIP's can only mean CLIP's end: nothing else is ever tokenised."""
    end, largest = words["eos_token_id"], end_token(words["vocab_size"])
    if end == _LEGACY_END:
        return largest
    if largest == text.END != end:
        rows.append(f"text_config.eos_token_id is {end}, {text.END} expected: this program reads CLIP's tokenizer only")
    return end


def _sizes(tower: ImageConfig | TextConfig) -> dict[str, int]:
    return {
        "hidden_size": tower.width,
        "intermediate_size": 4 * tower.width,
        "num_hidden_layers": tower.layers,
        "num_attention_heads": tower.heads,
    }


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value)
