import pickle
import subprocess
import sys

import pytest
from array_record.python.array_record_module import ArrayRecordWriter
from tensorflow_datasets.proto import tf_example_pb2

from clipjax.config import DataConfig
from clipjax.data.sources import open_source
from clipjax.data.sources.array_record import open_array_record
from clipjax.data.sources.record import RecordError
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


def test_a_damaged_record_is_a_bad_one_and_the_others_are_read(write):
    path = write("a.array_record", 10)
    content = bytearray(path.read_bytes())
    place = content.index(b"picture 4")
    content[place : place + 9] = b"x" * 9
    path.write_bytes(content)
    source = open_array_record(str(path), DataConfig())
    with pytest.raises(RecordError, match="a.array_record#4: Corrupted"):
        source[4]
    assert [source[index].image for index in (3, 5)] == [b"picture 3", b"picture 5"]


def test_more_shards_than_open_files_are_usual_can_be_read(write, tmp_path):
    for number in range(60):
        write(f"{number:02}.array_record", 1, first=number)
    code = (
        "import resource, sys\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (40, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))\n"
        "from clipjax.config import DataConfig\n"
        "from clipjax.data.sources import open_source\n"
        "source = open_source([sys.argv[1]], DataConfig())\n"
        "print(*(source[index].captions[0] for index in range(60)), sep=',')\n"
    )
    command = [sys.executable, "-c", code, f"{tmp_path}/*.array_record"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ",".join(f"a {number}" for number in range(60))


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
