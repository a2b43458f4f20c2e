"""Pairs in serialized tf.train.Example records, the form of TFDS and of most ArrayRecord files; needs no TensorFlow."""

import contextlib
from collections.abc import Sequence

from clipjax.config import DataConfig
from clipjax.data.sources.record import IMAGE_EXTENSIONS, Dropped, Record, RecordError, captions_of

_IMAGES = ("image", "image/encoded", *IMAGE_EXTENSIONS)
_CAPTIONS = ("captions", "caption", "text", "txt", "title")
_KEYS = ("__key__", "key", "image/filename", "file_name", "filename")


class ExampleSource:
    """Records of any sequence of bytes: the picture encoded in one bytes feature, the captions in another, one or many.

    Without `captions` a record may lack the second. data.image_key and data.caption_key name the features. A TFDS
    sequence of {text: …} is stored as `captions/text`.
    """

    def __init__(
        self,
        records: Sequence[bytes],
        name: str,
        data: DataConfig,
        captions: bool = True,
        files: Sequence[str] = (),
    ):
        _allow_open_files()
        self.dropped, self.files = Dropped(), list(files)
        self._records, self._name = records, name
        self._images = (data.image_key,) if data.image_key else _IMAGES
        names = (data.caption_key,) if data.caption_key else _CAPTIONS
        self._captions = [name + inner for name in names for inner in ("", "/text", "/raw")]
        self._captions_needed = captions

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, index: int) -> Record:
        key = f"{self._name}#{index}"
        try:
            content = self._records[index]
        except (RuntimeError, ValueError, OSError) as error:  # a damaged chunk; the others can be read after it
            raise RecordError(f"{key}: {error}") from error
        features = _parse(content, key)
        key = next(
            (f"{self._name}/{features[name][0].decode('utf-8', 'replace')}" for name in _KEYS if features.get(name)),
            key,
        )
        image = _first(features, self._images, key, "picture", "image_key")
        captions = _first(features, self._captions, key, "caption", "caption_key" if self._captions_needed else "")
        return Record(key, image[0] if image else b"", captions_of(captions))


def _allow_open_files() -> None:
    """As many open files as the system grants: the readers of ArrayRecord keep each shard open, and 1,024 is usual."""
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = 10_240 if hard == resource.RLIM_INFINITY else hard  # what macOS grants, which tells of no limit
    if soft != resource.RLIM_INFINITY and soft < most:
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))


def _parse(content, key: str) -> dict[str, list[bytes]]:
    """Bytes features by name."""
    from google.protobuf.message import DecodeError
    from tensorflow_datasets.proto import tf_example_pb2

    try:
        example = tf_example_pb2.Example.FromString(bytes(content))
    except DecodeError as error:
        raise RecordError(f"{key}: the record is no tf.train.Example") from error
    return {name: list(feature.bytes_list.value) for name, feature in example.features.feature.items()}


def _first(features: dict, names: Sequence[str], key: str, what: str, option: str) -> list[bytes]:
    """The first feature of these names; where there is none RecordError, which tells of `option`, or [] without one."""
    for name in names:
        if name in features:
            return features[name]
    if not option:
        return []
    there = ", ".join(sorted(features)) or "none"
    raise RecordError(f"{key}: no {what} among its features ({there}); data.{option} names one")
