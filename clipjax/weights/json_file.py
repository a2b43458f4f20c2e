"""JSON files of other programs: an object or one clear line."""

import json
import pathlib
from typing import Any

from clipjax.errors import UserError


def read(path: pathlib.Path) -> dict[str, Any]:
    """The object in a JSON file. Raises UserError for what is no JSON, no object, or says a key twice."""
    try:
        found = json.loads(path.read_bytes().decode("utf-8-sig"), object_pairs_hook=_once)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}).") from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: not a JSON file ({error}).") from None
    if not isinstance(found, dict):
        raise UserError(f"{path}: holds a {type(found).__name__}, expected a JSON object.")
    return found


def write(path: pathlib.Path, value: Any) -> None:
    """Indented UTF-8, with a line end."""
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def section(plain: dict[str, Any], key: str, where: str) -> dict[str, Any]:
    """The object under `key`, empty where it is absent or null. Raises UserError for anything else."""
    value = plain.get(key)
    if value is not None and not isinstance(value, dict):
        raise UserError(f"{where}: {key} is {value!r:.60}, expected an object.")
    return value or {}


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"{next(key for key in keys if keys.count(key) > 1)!r:.60} stands there twice")
    return found
