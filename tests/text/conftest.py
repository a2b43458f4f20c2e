"""The release's own tokenizer, loaded without its package, whose `__init__` wants torch."""

import importlib.util
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def release():
    """simple_tokenizer.py of the registry package openai-clip, as a module."""
    package = importlib.util.find_spec("clip")
    assert package, "pip install -e '.[test]' brings openai-clip, the oracle of these tests"
    path = Path(package.submodule_search_locations[0]) / "simple_tokenizer.py"
    spec = importlib.util.spec_from_file_location("release_tokenizer", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def simple(release):
    """The release's SimpleTokenizer."""
    return release.SimpleTokenizer()
