"""The reader's own pictures on the page: small JPEGs as data URIs, up to a number of bytes for the whole page."""

import base64
import io
from collections.abc import Callable

from PIL import Image

from clipjax.images.decode import decode
from clipjax.images.preprocess import resize_and_crop

SIDE = 160  # pixels


class Thumbnails:
    """Makes data URIs until `budget` bytes are spent; after that the answer is None and the page says so."""

    def __init__(self, budget: int = 2_000_000):
        self.left = budget
        self.full = False
        self._made: dict[str, str] = {}

    def __call__(self, name: str, read: Callable[[], bytes]) -> str | None:
        """The picture whose bytes `read` gives as a data URI, or None where the page is full; one name, one picture."""
        if name not in self._made:
            uri = "data:image/jpeg;base64," + base64.b64encode(_jpeg(read(), name)).decode()
            if len(uri) > self.left:
                self.full = True
                return None
            self.left -= len(uri)
            self._made[name] = uri
        return self._made[name]


def _jpeg(content: bytes, name: str) -> bytes:
    """The middle square of the picture, what the model sees of it."""
    image = decode(content, name)
    stream = io.BytesIO()
    Image.fromarray(resize_and_crop(image, min(SIDE, *image.size))).save(stream, "JPEG", quality=72, optimize=True)
    return stream.getvalue()
