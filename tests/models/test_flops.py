"""FLOP against the published profiles, and against the definition of a matmul."""

import pytest

from clipjax.config import ImageConfig, ModelConfig, TextConfig, preset
from clipjax.models.flops import forward_flops


@pytest.mark.parametrize(
    "name, image, text",
    [
        ("RN50", 11.59, 5.96),
        ("RN101", 19.01, 5.96),
        ("RN50x4", 41.16, 9.27),
        ("RN50x16", 145.74, 13.30),
        ("RN50x64", 520.25, 23.55),
        ("ViT-B/32", 8.82, 5.96),
        ("ViT-B/16", 35.13, 5.96),
        ("ViT-L/14", 162.03, 13.30),
        ("ViT-L/14@336px", 381.92, 13.30),
    ],
)
def test_flops_are_those_that_torch_counts_in_the_release(name, image, text):
    counted = forward_flops(preset(name))
    assert [round(flops / 1e9, 2) for flops in counted] == [image, text]


def test_flops_by_hand_for_one_layer_of_width_one():
    config = ModelConfig(embed_dim=1, image=ImageConfig(2, 1, 1, 1, 1), text=TextConfig(3, 5, 1, 1, 1, 4))
    image = 2 * 4 * 3 + (2 * 12 * 5 + 2 * 2 * 25) + 2
    text = (2 * 12 * 3 + 2 * 2 * 9) + 2
    assert forward_flops(config) == (image, text)
    assert forward_flops(config, text_length=2)[1] == (2 * 12 * 2 + 2 * 2 * 4) + 2
    assert forward_flops(config, patch_dropout=0.5)[0] == 2 * 4 * 3 + (2 * 12 * 3 + 2 * 2 * 9) + 2  # 2 patches stay
