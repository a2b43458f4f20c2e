"""Files that torch reads, written without it: same tensors, same bytes, aligned storages."""

import pickletools
import zipfile

import numpy as np
import pytest

from clipjax.weights import torch_file, torch_write

TENSORS = {
    "visual.proj": np.arange(6, dtype=np.float32).reshape(2, 3).T,  # not contiguous
    "logit_scale": np.array(2.5, np.float32),
    "bn.num_batches_tracked": np.array(1 << 40, np.int64),
    "é": np.zeros((1, 2, 1, 3), np.float32),
}


@pytest.fixture
def written(tmp_path):
    torch_write.write(tmp_path / "a.pt", TENSORS)
    return tmp_path / "a.pt"


def test_what_is_written_is_read_back(written):
    found = torch_file.read(written).tensors
    assert list(found) == list(TENSORS)
    for key, x in TENSORS.items():
        assert found[key].dtype == x.dtype and found[key].shape == x.shape and np.array_equal(found[key], x)


def test_the_same_tensors_give_the_same_bytes(written, tmp_path):
    torch_write.write(tmp_path / "b.pt", TENSORS)
    assert written.read_bytes() == (tmp_path / "b.pt").read_bytes()


def test_an_existing_file_stays(written):
    with pytest.raises(FileExistsError):
        torch_write.write(written, TENSORS)


def test_members_and_opcodes_are_those_that_torch_checks(written):
    """torch.load(weights_only=True) asks for these members, and for storages at multiples of 64 bytes to map them."""
    whole = written.read_bytes()
    with zipfile.ZipFile(written) as archive:
        assert archive.testzip() is None
        names = archive.namelist()
        assert names == [
            "archive/data.pkl",
            "archive/byteorder",
            *[f"archive/data/{n}" for n in range(4)],
            "archive/version",
        ]
        assert archive.read("archive/version") == b"3\n" and archive.read("archive/byteorder") == b"little"
        for info in archive.infolist():
            assert info.compress_type == zipfile.ZIP_STORED
            start = info.header_offset + 30 + int.from_bytes(whole[info.header_offset + 26 :][:2], "little")
            start += int.from_bytes(whole[info.header_offset + 28 :][:2], "little")
            assert start % 64 == 0
        names = {
            argument
            for opcode, argument, _ in pickletools.genops(archive.read("archive/data.pkl"))
            if opcode.name == "GLOBAL"
        }
    assert names == {
        "collections OrderedDict", "torch FloatStorage", "torch LongStorage", "torch._utils _rebuild_tensor_v2",
    }  # fmt: skip
