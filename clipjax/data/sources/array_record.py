"""ArrayRecord files, each record a serialized tf.train.Example."""

from clipjax.config import DataConfig
from clipjax.data.sources.example import ExampleSource
from clipjax.errors import UserError


def open_array_record(path: str, data: DataConfig, captions: bool = True) -> ExampleSource:
    """The records of one file (written with group_size:1 for speed). Raises UserError, naming it, for another file."""
    from array_record.python.array_record_data_source import ArrayRecordDataSource

    try:
        records = ArrayRecordDataSource([path])
    except RuntimeError as error:
        raise UserError(f"{path}: found no ArrayRecord file ({error}). Make it again or leave it out.") from error
    return ExampleSource(records, path, data, captions, files=[path])
