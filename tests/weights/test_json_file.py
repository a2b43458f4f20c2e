import pytest

from clipjax.errors import UserError
from clipjax.weights import json_file


def test_what_is_written_is_read_again(tmp_path):
    value = {"a": [1, 2.5, None, True], "b": {"ĳ</w>": 3}}
    json_file.write(tmp_path / "x.json", value)
    assert json_file.read(tmp_path / "x.json") == value


BAD = {
    "empty": b"",
    "cut": b"{",
    "list": b"[1]",
    "number": b"3",
    "key twice": b'{"a": 1, "a": 2}',
    "no utf-8": b"\xff\xfe{}",
    "too deep": b'{"a": ' + b"[" * 100_000,
    "too long a number": b'{"a": ' + b"9" * 5000 + b"}",
}


@pytest.mark.parametrize("content", BAD.values(), ids=BAD)
def test_anything_but_one_object_is_refused_in_one_line(content, tmp_path):
    (tmp_path / "x.json").write_bytes(content)
    with pytest.raises(UserError, match=r"x\.json: ") as caught:
        json_file.read(tmp_path / "x.json")
    assert "\n" not in str(caught.value)


def test_a_folder_is_refused(tmp_path):
    with pytest.raises(UserError, match="cannot be read"):
        json_file.read(tmp_path)


def test_a_section_is_empty_where_it_is_absent_or_null():
    assert json_file.section({"a": None}, "a", "x") == json_file.section({}, "a", "x") == {}
    with pytest.raises(UserError, match="x: a is 3, expected an object"):
        json_file.section({"a": 3}, "a", "x")
