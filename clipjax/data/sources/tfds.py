"""Prepared TensorFlow Datasets by name, `tfds:NAME[/config][:version][:split]`; reads them without TensorFlow."""

import os
import re

from clipjax.config import DataConfig
from clipjax.data.sources.example import ExampleSource
from clipjax.errors import UserError

_SPEC = re.compile(r"tfds:(?P<name>[^:]+(:\d+\.\d+\.\d+)?)(:(?P<split>.+))?")


def open_tfds(spec: str, data: DataConfig, captions: bool = True) -> ExampleSource:
    """A split (default train; slices such as `train[:50%]` work) of a set that lies in $TFDS_DATA_DIR.

    The set's code is not run, only its files are read, since the code of many needs TensorFlow.
    Raises UserError for a set that is not prepared, or in a format without random access, and for an unknown split.
    """
    import tensorflow_datasets as tfds
    from google.protobuf.json_format import ParseError
    from tensorflow_datasets.core.read_only_builder import builder_from_files

    match = _SPEC.fullmatch(spec)
    if not match:
        raise UserError(f"data.train: {spec!r} should read tfds:NAME, tfds:NAME/CONFIG or tfds:NAME:SPLIT.")
    name, split = match["name"], match["split"] or "train"
    folder = os.path.expanduser(os.environ.get("TFDS_DATA_DIR") or tfds.core.constants.DATA_DIR)
    try:
        builder = builder_from_files(name, data_dir=folder)
    except (tfds.core.DatasetNotFoundError, ValueError) as error:
        raise UserError(
            f"data.train: {name!r} is not prepared in {folder}. Prepare it once where TensorFlow is installed: "
            f"tfds build {name} --file_format=array_record --data_dir={folder}; TFDS_DATA_DIR names another folder."
        ) from error
    except ParseError as error:
        reason = str(error).splitlines()[0]
        raise UserError(
            f"data.train: {name!r} in {folder}: its dataset_info.json cannot be read ({reason}). Prepare it again."
        ) from error
    try:
        raw = tfds.decode.DeserializeMethod.RAW_BYTES
        records = builder.as_data_source(split, deserialize_method=raw)
    except NotImplementedError as error:
        raise UserError(
            f"data.train: {spec!r} is prepared in a format without random access, in {builder.data_dir}. Prepare it as "
            f"ArrayRecord where TensorFlow is installed: tfds build {name} --file_format=array_record."
        ) from error
    except ValueError as error:
        splits = ", ".join(builder.info.splits)
        raise UserError(f"data.train: {spec!r}: no split {split!r}. There are {splits}, and slices of them.") from error
    return ExampleSource(records, f"tfds:{builder.info.full_name}:{split}", data, captions)
