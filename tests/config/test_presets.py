"""Presets are sound, and an unknown one lists the known."""

import pytest

from clipjax.config import preset, preset_names
from clipjax.errors import UserError


@pytest.mark.parametrize("name", preset_names())
def test_every_preset_passes_its_own_checks(name):
    model = preset(name)
    assert model.mistakes() + model.image.mistakes() + model.text.mistakes() == []
    attended = model.image.width * (32 if model.image.kind == "resnet" else 1)  # a ResNet attends in its last pool
    assert attended // model.image.heads == 64  # the paper's head width, in both towers
    assert model.text.width // model.text.heads == 64


def test_an_unknown_preset_lists_the_known_ones():
    with pytest.raises(UserError, match="ViT-B/32"):
        preset("RN51")
