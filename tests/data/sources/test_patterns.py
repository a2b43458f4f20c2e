import subprocess

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clipjax.data.sources.patterns import expand, expand_braces, split_commas
from clipjax.errors import UserError

ranges = st.tuples(st.sampled_from(["0", "3", "08", "11", "000", "12"]), st.sampled_from(["0", "5", "09", "10", "003"]))
words = st.sampled_from(["a", "bc", "d.tar", "x-", ""])
patterns = st.recursive(
    words | ranges.map(lambda ends: f"{{{ends[0]}..{ends[1]}}}"),
    lambda inner: (
        st.lists(inner, min_size=2, max_size=3).map(lambda parts: "{" + ",".join(parts) + "}")
        | st.lists(inner, min_size=1, max_size=3).map("".join)
    ),
    max_leaves=5,
)


@given(patterns.map(lambda pattern: f"p{pattern}"))
@settings(max_examples=60, deadline=None)
def test_braces_expand_as_in_bash(pattern):
    bash = subprocess.run(["bash", "-c", f"printf '%s\\n' {pattern}"], capture_output=True, text=True, check=True)
    assert expand_braces(pattern) == bash.stdout.splitlines()


@pytest.mark.parametrize("text", ["{abc}", "{}", "a{b", "a}b", "{a..c}", "{1..}", "{{x}}"])
def test_braces_that_are_no_list_and_no_range_stay(text):
    assert expand_braces(text) == [text]


@given(st.text("{},.0193a[]", max_size=20))
def test_no_pattern_breaks_the_parser(text):
    try:
        assert all(isinstance(name, str) for name in expand_braces(text))
    except UserError as error:
        assert "names" in str(error)
    assert "" not in split_commas(text)


@pytest.mark.parametrize("pattern", ["{0..99999999999}", "{0..9999}{0..9999}"])
def test_a_range_of_too_many_files_is_refused(pattern):
    with pytest.raises(UserError, match="names 1.*000.* files, more than 1,000,000"):
        expand_braces(pattern)


def test_commas_part_sources_but_not_inside_braces_and_brackets():
    assert split_commas("a-{0..3}.tar, b-{x,y}.tar,,tfds:c:train[:5%],d[,]") == [
        "a-{0..3}.tar",
        "b-{x,y}.tar",
        "tfds:c:train[:5%]",
        "d[,]",
    ]


@pytest.fixture
def files(tmp_path, monkeypatch):
    for name in ["a-0.tar", "a-1.tar", "a-2.tar", "b.array_record-00000-of-00001", "c.csv", "odd,[name].tar"]:
        (tmp_path / name).touch()
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    "specs, found",
    [
        (["a-*.tar"], ["tar a-0.tar", "tar a-1.tar", "tar a-2.tar"]),
        (["a-{2..1}.tar"], ["tar a-2.tar", "tar a-1.tar"]),
        (["a-{0,2}.tar,c.csv"], ["tar a-0.tar", "tar a-2.tar", "table c.csv"]),
        (["c.csv", "*.array_record*", "tfds:x/y:val"], ["table c.csv", "array_record b.array", "tfds tfds:x/y:val"]),
        (["odd,[name].tar"], ["tar odd,[name].tar"]),
        (["{a-?,o*}.tar"], ["tar a-0.tar", "tar a-1.tar", "tar a-2.tar", "tar odd,[name].tar"]),
    ],
)
def test_sources_come_in_the_order_given(files, specs, found):
    assert [f"{form} {path}"[: len(want)] for (form, path), want in zip(expand(specs), found, strict=True)] == found


def test_a_folder_stands_for_its_shards_or_its_one_table(tmp_path):
    (tmp_path / "t").mkdir()
    table = tmp_path / "t" / "captions.tsv"
    table.touch()
    assert expand([str(tmp_path / "t")]) == [("table", str(table))]
    for name in ["1.tar", "0.tar"]:
        (tmp_path / "t" / name).touch()
    assert [path[-5:] for _, path in expand([str(tmp_path / "t")])] == ["0.tar", "1.tar"]


def test_a_home_folder_is_found(files, monkeypatch):
    monkeypatch.setenv("HOME", str(files))
    assert len(expand(["~/a-*.tar"])) == 3


@pytest.mark.parametrize(
    "specs, message",
    [
        ([], "no source is given"),
        ([","], "no source is given"),
        (["x-*.tar"], r"no file matches 'x-\*.tar' .looked in .*. Give a glob of tar shards or tfds:NAME."),
        (["nowhere/x-{0..3}.tar"], "looked in .*nowhere, which is no folder"),
        (["a-{0..5}.tar"], r"3 of the 6 files of 'a-{0..5}.tar' are absent, first 'a-3.tar'"),
        (["none://bucket/a.tar"], "none:// is no known protocol"),
        (["memory://bucket/{a,b}.tar"], "2 of the 2 names of 'memory://bucket/{a,b}.tar' are absent"),
        (["."], None),
    ],
)
def test_what_is_not_there_is_named(files, specs, message):
    if message is None:
        assert len(expand(specs)) == 4
        return
    with pytest.raises(UserError, match=message):
        expand(specs)


def test_a_folder_without_data_or_with_several_tables_is_named(tmp_path):
    (tmp_path / "notes.md").touch()
    with pytest.raises(UserError, match="holds no tar, .*found: notes.md"):
        expand([str(tmp_path)])
    (tmp_path / "a.csv").touch(), (tmp_path / "b.csv").touch()
    with pytest.raises(UserError, match="holds 2 tables .a.csv, b.csv.. Give one"):
        expand([str(tmp_path)])
