"""Config files and `--config.key=value`: the library's type-checked flags, with errors that name the key."""

import difflib
import pathlib
from collections.abc import Sequence
from typing import Any

from clipjax.errors import UserError


def read(path: str, overrides: Sequence[str] = ()) -> Any:
    """The ConfigDict of a Python file's `get_config()`, changed by `--config.key=value` arguments.

    Raises UserError that names the file and line, or the key and what it should be.
    """
    file = pathlib.Path(path.split(":")[0])
    if not file.is_file():
        raise UserError(
            f"--config={path}: no such file. Give a Python file with get_config(), such as configs/demo.py."
        )
    config = _load(path, ())
    for item in overrides:
        _check_key(config, item)
    return _load(path, overrides)


def _load(path: str, overrides: Sequence[str]) -> Any:
    from absl import flags
    from ml_collections import config_flags

    values = flags.FlagValues()
    holder = config_flags.DEFINE_config_file("config", flag_values=values)
    try:
        values(["clipjax", f"--config={path}", *overrides])
        return holder.value
    except (flags.Error, TypeError, ValueError) as error:
        if overrides:
            raise UserError(_about_value(str(error))) from None
        raise UserError(f"{path}: {_place(error, path)}{error}.") from None
    except Exception as error:  # whatever the user's file raised
        raise UserError(f"{path}: {_place(error, path)}{type(error).__name__}: {error}.") from None


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


def _about_value(message: str) -> str:
    return message.removeprefix("flag --").splitlines()[0].rstrip(".") + ". Give a value of the key's type."


def _place(error: BaseException, path: str) -> str:
    """`line N: ` where the error arose in the file."""
    if isinstance(error, SyntaxError):
        return f"line {error.lineno}: "
    line, trace = None, error.__traceback__
    while trace:
        if pathlib.Path(trace.tb_frame.f_code.co_filename).name == pathlib.Path(path.split(":")[0]).name:
            line = trace.tb_lineno
        trace = trace.tb_next
    return f"line {line}: " if line else ""
