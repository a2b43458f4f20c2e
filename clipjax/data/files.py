"""Where results go, and files that are there whole or not at all."""

import contextlib
import os
import pathlib
from collections.abc import Iterator
from typing import Any

from clipjax.errors import UserError


@contextlib.contextmanager
def replacing(path: pathlib.Path) -> Iterator[pathlib.Path]:
    """A name beside `path` to write to; the file takes the place of `path` at the end of the block.

    Where the block fails nothing stays. Raises UserError, naming `path`, where the system refuses.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        os.replace(temporary, path)
    except OSError as error:
        raise UserError(
            f"{path}: cannot be written ({error.strerror or error}). Make room there, or give another place."
        ) from None
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def replace_text(path: pathlib.Path, text: str) -> None:
    """Write a text as `replacing` does, in UTF-8 and `plain`."""
    with replacing(path) as temporary:
        temporary.write_text(plain(text), encoding="utf-8")


def is_address(path: Any) -> bool:
    """Whether this is an address such as gs://bucket/name and no local path."""
    return "://" in str(path)


def local_path(path: Any) -> pathlib.Path:
    """Where results are to be written. Raises UserError for an address and for an empty name."""
    if not str(path):
        raise UserError("an empty name says where results go. Give a folder; is a variable of the shell not set?")
    if is_address(path):
        raise UserError(f"{path}: an address, but results are written to local folders. Name one, and copy it there.")
    return pathlib.Path(path)


def make_folder(path: Any) -> pathlib.Path:
    """The folder, made if it is absent. Raises UserError where it cannot be made, and for an address."""
    path = local_path(path)
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{path}: cannot be made a folder ({error.strerror}). Give another place.") from error
    return path


def plain(text: str) -> str:
    """Text that UTF-8 can hold: of a file name in another encoding, what cannot be read becomes `?`."""
    return text.encode("utf-8", "replace").decode("utf-8")
