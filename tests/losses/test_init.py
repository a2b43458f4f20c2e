"""The room's front door."""

import subprocess
import sys

import pytest

import clipjax.losses


def test_importing_the_room_does_not_import_jax():
    code = "import sys, clipjax.losses; sys.exit('jax' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_every_public_name_is_there_and_no_other():
    assert all(callable(getattr(clipjax.losses, name)) for name in clipjax.losses.__all__)
    with pytest.raises(AttributeError, match="dense_loss"):
        clipjax.losses.dense_loss  # noqa: B018
