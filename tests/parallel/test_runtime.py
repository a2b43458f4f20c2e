"""Start-up: the cache lies where the user says, and a half-set environment is named."""

import pathlib

import pytest

from clipjax.errors import UserError
from clipjax.parallel import runtime


def test_the_cache_lies_where_the_environment_says(monkeypatch, tmp_path):
    monkeypatch.delenv("CLIPJAX_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert runtime.cache_directory() == tmp_path / "clipjax"
    monkeypatch.setenv("CLIPJAX_CACHE", str(tmp_path / "mine"))
    assert runtime.cache_directory() == pathlib.Path(tmp_path / "mine")


def test_a_missing_number_of_processes_is_named(monkeypatch):
    monkeypatch.setenv("CLIPJAX_COORDINATOR", "127.0.0.1:1")
    monkeypatch.setenv("CLIPJAX_PROCESSES", "two")
    with pytest.raises(UserError, match="CLIPJAX_PROCESSES: 'two' should be a whole number"):
        runtime.start(cache=False)
