"""Picture files as they lie in folders, without captions: what can be embedded, not trained on."""

from collections.abc import Sequence
from pathlib import Path

from clipjax.data.sources.record import Dropped, Record, RecordError


class PictureSource:
    """The pictures of these paths, in that order; a record's key is its path."""

    def __init__(self, paths: Sequence[str]):
        self.dropped, self.files = Dropped(), list(paths)

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> Record:
        path = self.files[index]
        return Record(path, read_picture(path), ())


def read_picture(path: str) -> bytes:
    """The content of a picture's file. Raises RecordError, naming it, where it cannot be read."""
    try:
        return Path(path).read_bytes()
    except (OSError, ValueError) as error:  # ValueError: a path with a NUL
        raise RecordError(f"{path}: {getattr(error, 'strerror', None) or error}") from error
