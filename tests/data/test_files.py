"""Files are there whole or not at all, and what the disk refuses is one line."""

import pytest

from clipjax.data.files import local_path, make_folder, replace_text, replacing
from clipjax.errors import UserError


def test_a_file_is_replaced_at_the_end_and_stays_as_it_was_where_writing_fails(tmp_path):
    path = tmp_path / "a.json"
    with replacing(path) as temporary:
        temporary.write_text("old")
        assert not path.exists()
    with pytest.raises(ZeroDivisionError), replacing(path) as temporary:
        temporary.write_text("half")
        raise ZeroDivisionError
    assert [item.name for item in tmp_path.iterdir()] == ["a.json"] and path.read_text() == "old"


def test_what_the_system_refuses_is_one_line_that_names_the_file(tmp_path):
    with pytest.raises(UserError, match=r"a\.json: cannot be written \(No space left on device\)\. Make room"):
        with replacing(tmp_path / "a.json") as temporary:
            temporary.write_text("half")
            raise OSError(28, "No space left on device")
    with pytest.raises(UserError, match=r"none/a\.json: cannot be written \(No such file or directory\)"):
        replace_text(tmp_path / "none" / "a.json", "text")
    assert not list(tmp_path.iterdir())


def test_a_name_that_is_no_text_is_written_with_a_mark_in_its_place(tmp_path):
    replace_text(tmp_path / "a", b"caf\xe9".decode("utf-8", "surrogateescape"))
    assert (tmp_path / "a").read_bytes() == b"caf?"


def test_a_folder_is_made_or_a_line_says_why_not(tmp_path):
    assert make_folder(tmp_path / "a/b").is_dir() and make_folder(str(tmp_path / "a/b")) == tmp_path / "a/b"
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="file/run: cannot be made a folder .Not a directory"):
        make_folder(tmp_path / "file/run")


@pytest.mark.parametrize("place", [local_path, make_folder])
def test_results_are_not_written_to_a_folder_that_is_called_like_an_address(place, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="gs://bucket/out: an address"):
        place("gs://bucket/out")
    with pytest.raises(UserError, match="an empty name says where results go"):
        place("")
    assert not list(tmp_path.iterdir())
