import pathlib
import shutil
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[2]
SCRIPTS = sorted([*ROOT.glob("launch/*.sh"), ROOT / ".ci/run"])


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.name)
def test_a_script_is_clean_under_shellcheck(script):
    here = pathlib.Path(sys.executable).parent / "shellcheck"
    program = str(here) if here.exists() else shutil.which("shellcheck")
    done = subprocess.run([program, str(script)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("script", [path for path in SCRIPTS if path.name not in ("run", "test.sh", "quickstart.sh")])
def test_a_script_says_how_it_is_called(script):
    done = subprocess.run([str(script), "--help"], capture_output=True, text=True)
    assert done.returncode == 0 and f"launch/{script.name} --" in done.stdout
    wrong = subprocess.run([str(script)], capture_output=True, text=True)
    assert wrong.returncode == 2 and wrong.stderr.startswith(f"{script.name}: ")
