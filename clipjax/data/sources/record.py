"""What every source yields, and how the captions of a picture are read from what people write."""

from typing import NamedTuple

IMAGE_EXTENSIONS = ("jpg", "jpeg", "png", "webp", "gif", "bmp", "tif", "tiff")

_TEXT_KEYS = ("text", "caption", "raw")  # where COCO and its like keep the words of one caption
_NAMED = 5


class Record(NamedTuple):
    """One picture, not decoded, and its captions: stripped, none empty, maybe no caption at all."""

    key: str
    image: bytes
    captions: tuple[str, ...]


class RecordError(ValueError):
    """A record that cannot be read: names it and says why."""


class Dropped:
    """Samples that lack a picture or a caption: how many, and the names of the first few."""

    def __init__(self):
        self.count, self.names = 0, []

    def add(self, name: str) -> None:
        """Count one more."""
        self.count += 1
        if self.count <= _NAMED:
            self.names.append(name)


def captions_of(value) -> tuple[str, ...]:
    """Captions from a string, bytes, {text: …} or a list of these; what is empty or none of them is left out."""
    items = value if isinstance(value, list | tuple) else [value]
    return tuple(caption for caption in map(_one, items) if caption)


def lines_of(text: bytes) -> tuple[str, ...]:
    """The non-empty lines of a text file, stripped; bytes that are no UTF-8 become U+FFFD."""
    return captions_of(text.decode("utf-8-sig", "replace").split("\n"))


def _one(item) -> str:
    if isinstance(item, dict):
        item = next((item[key] for key in _TEXT_KEYS if key in item), "")
    if isinstance(item, bytes):
        item = item.decode("utf-8-sig", "replace")
    if not isinstance(item, str):
        return ""
    # JSON may hold halves of surrogate pairs, which no tokenizer can encode
    return (item if item.isascii() else item.encode("utf-8", "replace").decode("utf-8")).strip()
