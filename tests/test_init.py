"""The face of the package: cheap to import, complete when asked."""

import pathlib
import subprocess
import sys

import pytest
import setuptools

import clipjax


def test_import_loads_neither_jax_nor_other_heavy_libraries():
    code = "import clipjax, sys; print(sorted({'jax', 'numpy', 'grain', 'flax', 'optax', 'orbax'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_every_folder_with_a_module_is_a_package():
    """A folder without __init__.py can be imported from a checkout, and is left out of what is installed."""
    folder = pathlib.Path(clipjax.__file__).parent
    modules = {path.parent.relative_to(folder.parent) for path in folder.rglob("*.py")}
    assert {".".join(path.parts) for path in modules} == {
        name for name in setuptools.find_packages(folder.parent) if name.split(".")[0] == "clipjax"
    }


def test_every_name_of_the_face_is_there():
    assert all(getattr(clipjax, name) is not None for name in clipjax.__all__)


def test_another_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="nothing"):
        _ = clipjax.nothing
