"""Files that are there whole or not at all."""

import contextlib
import os
import pathlib
from collections.abc import Iterator

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


def plain(text: str) -> str:
    """Text that UTF-8 can hold: of a file name in another encoding, what cannot be read becomes `?`."""
    return text.encode("utf-8", "replace").decode("utf-8")
