"""Experiments: each config resolves to its golden copy, so that a changed default shows in a diff.

After a change that is meant: `python tests/configs/test_configs.py` writes the golden copies anew.
"""

import pathlib

import pytest

from clipjax.config import as_json, resolve
from clipjax.config.files import read

ROOT = pathlib.Path(__file__).parents[2]
GOLDEN = pathlib.Path(__file__).parent / "golden"
NAMES = sorted(path.stem for path in (ROOT / "configs").glob("*.py"))


def resolved(name):
    return as_json(resolve(read(str(ROOT / "configs" / f"{name}.py")))) + "\n"


@pytest.mark.parametrize("name", NAMES)
def test_a_config_resolves_to_its_golden_copy(name):
    assert resolved(name) == (GOLDEN / f"{name}.json").read_text()


def test_no_golden_copy_is_left_over():
    assert sorted(path.stem for path in GOLDEN.iterdir()) == NAMES


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    "key", ["total_steps=7", "checkpoint_every=3", "evaluate_every=0", "batch_size=8", "mesh.data=1"]
)
def test_every_config_takes_the_usual_overrides(name, key):
    config = resolve(read(str(ROOT / "configs" / f"{name}.py"), [f"--config.{key}", "--config.data.train=x.tar"]))
    assert config.data.train == ("x.tar",)


if __name__ == "__main__":
    for config_name in NAMES:
        (GOLDEN / f"{config_name}.json").write_text(resolved(config_name))
