"""From what a user wrote to a frozen Config: fill the preset, check all keys, values and what crosses sections."""

import dataclasses
import difflib
import json
import types
import typing
from typing import Any

from clipjax.config.model import TextConfig
from clipjax.config.presets import preset, preset_names
from clipjax.config.stages import patch_dropout_mistakes, stages_mistakes
from clipjax.config.training import Config
from clipjax.errors import UserError
from clipjax.progress import say


def default_config() -> Any:
    """A ConfigDict with every key and its default; the model's keys are open until a preset fills them."""
    config = as_configdict(Config())
    config.model = _open(config.model)
    return config


def as_configdict(config: Config) -> Any:
    """The ConfigDict whose `resolve` is `config` again; keys that may be None or a list keep their type open."""
    return _to_configdict(config)


def as_json(config: Config) -> str:
    """The config as indented JSON, for people and for checkpoints."""
    return json.dumps(dataclasses.asdict(config), indent=2)


def from_json(text: str, where: str = "config.json") -> Config:
    """The Config that `as_json` wrote; raises UserError naming `where` for anything else."""
    try:
        return _build(Config, json.loads(text))
    except (ValueError, TypeError, KeyError) as error:
        raise UserError(f"{where}: not a configuration of this program ({error}).") from None


def resolve(config: Any) -> Config:
    """Check a ConfigDict once and for all and freeze it.

    A warm-up longer than the run is shortened, with a line. Raises UserError with all mistakes, each naming its key.
    """
    plain = config.to_dict() if hasattr(config, "to_dict") else dict(config)
    rows: list[str] = []
    plain = _fill_preset(plain, rows)
    values = _typed(Config, plain, "", rows)
    if not rows:
        rows += _section_mistakes(values, "")
    if not rows:
        values = _settle_length(values, rows)
        rows += _crossing_mistakes(values)
    if rows:
        raise UserError("; ".join(dict.fromkeys(rows)) + ("" if rows[-1].endswith(".") else "."))
    return values


def judge_devices(config: Config, devices: int) -> None:
    """Raise UserError if the config cannot run on so many devices; needs no data."""
    data, fsdp, _ = config.mesh.sizes(devices)
    if rows := _rows_mistakes(config, data, fsdp):
        raise UserError("; ".join(rows) + f". Give multiples of {data * fsdp}.")


def _fill_preset(plain: dict, rows: list[str]) -> dict:
    model = dict(plain.get("model") or {})
    name = model.get("preset") or Config().model.preset
    if name not in preset_names():
        close = difflib.get_close_matches(str(name), preset_names(), 1)
        rows.append(
            f"model.preset: {name!r} is none of {', '.join(preset_names())}"
            + (f" (did you mean {close[0]!r}?)" if close else "")
        )
        name = preset_names()[0]
    return {**plain, "model": _over(dataclasses.asdict(preset(name)), model)}


def _over(base: dict, changes: dict) -> dict:
    merged = dict(base)
    for key, value in changes.items():
        if isinstance(value, dict) and isinstance(base.get(key), dict):
            merged[key] = _over(base[key], value)
        elif value is not None:
            merged[key] = value
    return merged


def _typed(kind: Any, plain: dict, prefix: str, rows: list[str]) -> Any:
    """The dataclass `kind` from a plain dict; adds a row for each unknown key and wrong type."""
    hints = typing.get_type_hints(kind)
    for key in plain:
        if key not in hints:
            close = difflib.get_close_matches(key, hints, 1)
            rows.append(f"{prefix}{key}: no such key" + (f" (did you mean {prefix}{close[0]}?)" if close else ""))
    fields = {}
    for name, hint in hints.items():
        if name not in plain:
            continue
        value = plain[name]
        if dataclasses.is_dataclass(hint):
            if isinstance(value, dict):
                fields[name] = _typed(hint, value, f"{prefix}{name}.", rows)
            else:
                rows.append(f"{prefix}{name}: {value!r} should be a section with keys")
            continue
        if _is_list_of_sections(hint):
            if isinstance(value, list | tuple) and all(isinstance(item, dict) for item in value):
                fields[name] = tuple(
                    _typed(typing.get_args(hint)[0], item, f"{prefix}{name}.{i}.", rows) for i, item in enumerate(value)
                )
            else:
                rows.append(f"{prefix}{name}: {value!r} should be a list of sections with keys, each a dict")
            continue
        good, fields[name] = _cast(value, hint)
        if not good:
            rows.append(f"{prefix}{name}: {value!r} should be {_wanted(hint)}")
    return kind(**fields)


def _is_list_of_sections(hint: Any) -> bool:
    return typing.get_origin(hint) is tuple and dataclasses.is_dataclass(typing.get_args(hint)[0])


def _cast(value: Any, hint: Any) -> tuple[bool, Any]:
    """Whether the value fits the annotation, and the value in that type."""
    if isinstance(hint, types.UnionType):
        return (True, None) if value is None else _cast(value, typing.get_args(hint)[0])
    if typing.get_origin(hint) is tuple:
        inner = typing.get_args(hint)[0]
        if inner is str:
            value = [] if value is None else split_sources(value) if isinstance(value, str) else value
        if not isinstance(value, list | tuple):
            return False, ()
        items = [_cast(item, inner) for item in value]
        return all(good for good, _ in items), tuple(item for _, item in items)
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return True, float(value)
    return isinstance(value, hint) and not (hint is int and isinstance(value, bool)), value


def _wanted(hint: Any) -> str:
    if isinstance(hint, types.UnionType):
        return f"{_wanted(typing.get_args(hint)[0])} or None"
    if typing.get_origin(hint) is tuple:
        inner = typing.get_args(hint)[0]
        return "a path, a glob or a list of them" if inner is str else f"a list of {inner.__name__}s"
    return {int: "a whole number", float: "a number", str: "a text", bool: "True or False"}[hint]


def split_sources(text: str) -> list[str]:
    """The parts of a comma-separated list of sources; commas inside braces stay."""
    parts, depth = [""], 0
    for letter in text:
        depth += (letter == "{") - (letter == "}")
        if letter == "," and depth <= 0:
            parts.append("")
        else:
            parts[-1] += letter
    return [part.strip() for part in parts if part.strip()]


def _section_mistakes(section: Any, prefix: str) -> list[str]:
    rows = [f"{prefix}{row}" for row in section.mistakes()]
    for item in dataclasses.fields(section):
        value = getattr(section, item.name)
        if dataclasses.is_dataclass(value):
            rows += _section_mistakes(value, f"{prefix}{item.name}.")
    return rows


def _settle_length(config: Config, rows: list[str]) -> Config:
    """The config with `total_steps` set and a warm-up that fits into it."""
    if (config.total_steps is None) == (config.total_samples is None):
        state = "neither is set" if config.total_steps is None else "both are set"
        rows.append(f"total_steps, total_samples: {state}; give exactly one (None unsets the other)")
        return config
    name, length = (
        ("total_steps", config.total_steps) if config.total_samples is None else ("total_samples", config.total_samples)
    )
    if length is None or length < 1:
        rows.append(f"{name}: {length} should be at least 1")
        return config
    steps = config.total_steps or -(-length // config.batch_size)
    if config.optimizer.warmup_steps >= steps:
        shorter = max(steps // 10, 0)
        say(
            f"optimizer.warmup_steps: {config.optimizer.warmup_steps} is not shorter than the run of {steps} steps; "
            f"using {shorter}"
        )
        config = dataclasses.replace(config, optimizer=dataclasses.replace(config.optimizer, warmup_steps=shorter))
    return dataclasses.replace(config, total_steps=steps, total_samples=None)


def _crossing_mistakes(config: Config) -> list[str]:
    rows = [
        f"model.{tower}.heads: {getattr(config.model, tower).heads} does not divide by mesh.tensor={config.mesh.tensor}"
        for tower in ("image", "text")
        if getattr(config.model, tower).heads % config.mesh.tensor
    ]
    if config.mesh.data > 0:
        rows += _rows_mistakes(config, config.mesh.data, config.mesh.fsdp)
    rows += patch_dropout_mistakes(config.patch_dropout, config) + stages_mistakes(config)
    text, own = config.model.text, TextConfig()
    if text.vocab_size < own.vocab_size:
        rows.append(
            f"model.text.vocab_size: {text.vocab_size} is less than the {own.vocab_size} of CLIP's tokenizer, which "
            "writes the texts of training"
        )
    elif text.end_token != own.end_token:
        rows.append(
            f"model.text.end_token: {text.end_token} ends no text; CLIP's tokenizer, which writes those of training, "
            f"ends them with {own.end_token}"
        )
    if config.evaluate_every and not config.data.evaluate:
        rows.append("evaluate_every: data.evaluate names no folder to score; give one or set evaluate_every=0")
    return rows


def _rows_mistakes(config: Config, data: int, fsdp: int) -> list[str]:
    """A line for each number of rows that the devices cannot share evenly."""
    return [
        f"{name}: {rows} does not divide by mesh.data={data} x mesh.fsdp={fsdp}"
        for name in ("batch_size", "micro_batch_size")
        if (rows := getattr(config, name)) is not None and rows % (data * fsdp)
    ]


def _build(kind: Any, plain: dict) -> Any:
    rows: list[str] = []
    built = _typed(kind, plain, "", rows)
    if rows:
        raise ValueError("; ".join(rows))
    return built


def _to_configdict(section: Any) -> Any:
    from ml_collections import ConfigDict, config_dict

    rows = ConfigDict()
    for name, hint in typing.get_type_hints(type(section)).items():
        value = getattr(section, name)
        if dataclasses.is_dataclass(value):
            rows[name] = _to_configdict(value)
        elif _is_list_of_sections(hint):
            rows[name] = tuple(dataclasses.asdict(item) for item in value)
        elif isinstance(hint, types.UnionType):
            rows[name] = config_dict.placeholder(typing.get_args(hint)[0])
            rows[name] = value
        elif typing.get_args(hint)[:1] == (str,):
            rows[name] = config_dict.placeholder(object)  # a text or a list of texts
            rows[name] = value
        else:
            rows[name] = value
    return rows


def _open(section: Any) -> Any:
    """The same ConfigDict with every value but the preset unset, its type kept."""
    from ml_collections import ConfigDict, config_dict

    rows = ConfigDict()
    for name, value in section.items():
        if isinstance(value, ConfigDict):
            rows[name] = _open(value)
        else:
            rows[name] = value if name == "preset" else config_dict.placeholder(type(value))
    return rows
