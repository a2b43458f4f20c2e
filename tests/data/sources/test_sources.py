import pickle

import pytest

from clipjax.config import DataConfig
from clipjax.data.sources import open_source
from clipjax.errors import UserError


def test_several_sources_are_one_in_the_order_given(shards, tmp_path):
    (tmp_path / "t.csv").write_text("image,caption\na.jpg,x\n")
    (tmp_path / "a.jpg").write_bytes(b"picture")
    source = open_source((f"{shards}/*-{{00001..00002}}.tar", f"{tmp_path}", f"{shards}/*0.tar"), DataConfig())
    captions = [source[i].captions[0] for i in range(len(source))]
    numbers = [*range(5, 15), None, *range(5)]
    assert captions == ["x" if number is None else f"caption {number} a" for number in numbers]
    assert pickle.loads(pickle.dumps(source))[10].image == b"picture"


@pytest.mark.parametrize("index", [-1, 15, 100])
def test_there_is_no_record_outside(shards, index):
    with pytest.raises(IndexError):
        open_source((str(shards),), DataConfig())[index]


@pytest.mark.parametrize("files", [{}, {"a.txt": "x"}, {"a.jpg": "x"}, {"README": "x"}])
def test_a_source_without_one_pair_is_refused(tmp_path, write_tar, files):
    path = write_tar(tmp_path / "a.tar", files)
    with pytest.raises(UserError, match="a.tar' holds no sample with picture and caption"):
        open_source((str(path),), DataConfig())


def half(tmp_path, write_tar):
    return str(
        write_tar(tmp_path / "a.tar", {"0.jpg": "", "0.txt": "", "1.jpg": "", "2.txt": "", "2.jpg": "", "3.txt": ""})
    )


def test_a_large_share_of_incomplete_samples_is_refused(tmp_path, write_tar):
    with pytest.raises(UserError, match=r"2 samples .*\(50.0%\) lack .*max_unreadable=0.1.*first: .*/1: no caption"):
        open_source((half(tmp_path, write_tar),), DataConfig())


def test_a_share_below_the_limit_is_told(tmp_path, write_tar, capsys):
    source = open_source((half(tmp_path, write_tar),), DataConfig(max_unreadable=0.5))
    assert len(source) == 2 and source.dropped == 2
    assert "2 samples without picture or caption are left out" in capsys.readouterr().err
