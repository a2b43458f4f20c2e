"""Config files and `--config.key=value`: the library's type-checked flags, with errors that name the key."""

import difflib
import functools
import pathlib
import runpy
from collections.abc import Sequence
from typing import Any

from absl import flags
from ml_collections import ConfigDict, config_flags

from clipjax.errors import UserError


def read(path: str, overrides: Sequence[str] = ()) -> Any:
    """The ConfigDict of a Python file's `get_config()`, changed by `--config.key=value` arguments.

    What follows a colon in `path` is passed to `get_config`. Raises UserError that names the file and line, or the key
    and what it should be.
    """
    config = _run(*path.split(":", 1))
    for item in overrides:
        _check_key(config, item)
    return _override(config, overrides)


def _run(path: str, *arguments: str) -> Any:
    """What the file's `get_config` returns."""
    if not pathlib.Path(path).is_file():
        raise UserError(
            f"--config={path}: no such file. Give a Python file with get_config(), such as configs/demo.py."
        )
    try:
        names = runpy.run_path(path)
        if "get_config" not in names:
            raise UserError(f"{path}: has no function get_config(). See configs/demo.py for one.")
        config = names["get_config"](*arguments)
    except UserError:
        raise
    except Exception as error:  # whatever the user's file raised
        reason = " ".join(str(error).split())
        raise UserError(f"{path}: {_place(error, path)}{type(error).__name__}: {reason}.") from None
    if not isinstance(config, ConfigDict):
        raise UserError(f"{path}: get_config() returned {type(config).__name__}, expected default_config(), changed.")
    return config


def _override(config: ConfigDict, overrides: Sequence[str]) -> ConfigDict:
    """The config after the overrides, each cast to its key's type by the library."""
    for item in (item for item in overrides if item.endswith("=None")):  # which the library's int parser refuses
        *sections, name = item.removeprefix("--config.").removesuffix("=None").split(".")
        functools.reduce(getattr, sections, config)[name] = None
    arguments = ["clipjax", *(item for item in overrides if not item.endswith("=None"))]
    values = flags.FlagValues()
    holder = config_flags.DEFINE_config_dict("config", config, flag_values=values, sys_argv=arguments)
    try:
        values(arguments)
    except (flags.Error, TypeError, ValueError) as error:
        reason = " ".join(str(error).split()).removeprefix("flag --").rstrip(".")
        raise UserError(f"{reason}. Give a value of the key's type.") from None
    return holder.value


def _check_key(config: Any, item: str) -> None:
    """Raise UserError for a key that the config does not have, naming the nearest one that it has."""
    if "=" not in item:
        raise UserError(f"{item}: has no value. Write {item}=VALUE.")
    key = item.removeprefix("--config.").partition("=")[0]
    node, walked = config, ""
    for name in key.split("."):
        if not hasattr(node, "keys") or name not in node.keys():
            known = list(node.keys()) if hasattr(node, "keys") else []
            close = difflib.get_close_matches(name, known, 1)
            hint = f"Did you mean {walked}{close[0]}?" if close else f"There are: {', '.join(sorted(known)) or 'none'}."
            raise UserError(f"config.{key}: no such key. {hint}")
        node, walked = node[name], f"{walked}{name}."
    if hasattr(node, "keys"):
        raise UserError(
            f"config.{key}: a section, not a value. Give one of its keys: {', '.join(sorted(node.keys()))}."
        )


def _place(error: BaseException, path: str) -> str:
    """`line N: ` where the error arose in the file."""
    if isinstance(error, SyntaxError):
        return f"line {error.lineno}: "
    line, trace = None, error.__traceback__
    while trace:
        if trace.tb_frame.f_code.co_filename == path:
            line = trace.tb_lineno
        trace = trace.tb_next
    return f"line {line}: " if line else ""
