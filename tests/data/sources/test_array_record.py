import pickle

import pytest
from array_record.python.array_record_module import ArrayRecordWriter
from tensorflow_datasets.proto import tf_example_pb2

from clipjax.config import DataConfig
from clipjax.data.sources import open_source
from clipjax.data.sources.array_record import open_array_record
from clipjax.errors import UserError


@pytest.fixture
def write(tmp_path):
    def make(name, count, first=0):
        writer = ArrayRecordWriter(str(tmp_path / name), "group_size:1")
        for number in range(first, first + count):
            example = tf_example_pb2.Example()
            example.features.feature["image"].bytes_list.value.append(b"picture %d" % number)
            example.features.feature["captions"].bytes_list.value.extend([b"a %d" % number, b"b %d" % number])
            writer.write(example.SerializeToString())
        writer.close()
        return tmp_path / name

    return make


def test_records_are_read_in_any_order(write):
    source = open_array_record(str(write("a.array_record", 10)), DataConfig())
    assert len(source) == 10
    assert source[7].image == b"picture 7" and source[3].captions == ("a 3", "b 3")
    assert pickle.loads(pickle.dumps(source))[7] == source[7]


def test_a_glob_of_files_is_one_source(write, tmp_path):
    write("a.array_record-00000-of-00002", 3), write("a.array_record-00001-of-00002", 2, first=3)
    source = open_source((f"{tmp_path}/a.array_record*",), DataConfig())
    assert [source[i].image for i in range(5)] == [b"picture %d" % i for i in range(5)]


@pytest.mark.parametrize("content", [b"", b"x" * 100_000])
def test_another_file_is_named(tmp_path, content):
    path = tmp_path / "a.array_record"
    path.write_bytes(content)
    with pytest.raises(UserError, match="a.array_record: found no ArrayRecord file"):
        open_array_record(str(path), DataConfig())


def test_a_truncated_file_is_named(write):
    path = write("a.array_record", 10)
    path.write_bytes(path.read_bytes()[:-700])
    with pytest.raises(UserError, match="a.array_record: found no ArrayRecord file"):
        open_array_record(str(path), DataConfig())
