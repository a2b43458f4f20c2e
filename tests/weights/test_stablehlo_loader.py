"""The loader that travels with an export is the file in the package, and imports nothing but jax and NumPy."""

import ast
import pathlib

from clipjax.weights import stablehlo_loader


def test_it_imports_jax_and_numpy_only():
    tree = ast.parse(pathlib.Path(stablehlo_loader.__file__).read_text())
    names = {
        alias.name.split(".")[0] for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names
    }
    names |= {node.module.split(".")[0] for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert names <= {"jax", "numpy", "json", "pathlib", "types"}
