"""The model section refuses sizes that cannot be built."""

import dataclasses

import pytest

from clipjax.config import ImageConfig, ModelConfig, TextConfig, differences, preset

RESNET = preset("RN50").image


@pytest.mark.parametrize(
    ("section", "change", "said"),
    [
        (ImageConfig(), {"heads": 5}, "heads: 5 does not divide width=768"),
        (ImageConfig(), {"image_size": 225}, "image_size: 225 does not divide by patch_size=32"),
        (ImageConfig(), {"layers": 0}, "layers: 0 should be at least 1"),
        (ImageConfig(), {"stages": (3, 4, 6, 3)}, "stages: (3, 4, 6, 3) belong to kind='resnet'"),
        (ImageConfig(), {"kind": "convnext"}, "kind: 'convnext' should be 'vit' or 'resnet'"),
        (RESNET, {"stages": (3, 4, 6)}, "stages: (3, 4, 6) should be four numbers of blocks"),
        (RESNET, {"stages": (3, 0, 6, 3)}, "stages: (3, 0, 6, 3) should be four numbers of blocks"),
        (RESNET, {"layers": 12}, "layers: 12 should be 0 for kind='resnet'"),
        (RESNET, {"patch_size": 16}, "patch_size: 16 should be 32 for kind='resnet'"),
        (RESNET, {"image_size": 240}, "image_size: 240 does not divide by patch_size=32"),
        (RESNET, {"width": 63, "heads": 1}, "width: 63 should be even"),
        (RESNET, {"heads": 12}, "heads: 12 does not divide the 2048 channels of width=64"),
        (ImageConfig(), {"mean": (0.5,)}, "mean"),
        (ImageConfig(), {"std": (0.5, 0.0, 1.0)}, "std"),
        (ImageConfig(), {"interpolation": "nearest"}, "interpolation"),
        (TextConfig(), {"end_token": 49408}, "end_token: 49408 is outside of vocab_size=49408"),
        (TextConfig(), {"context_length": 2}, "context_length"),
        (ModelConfig(), {"activation": "relu"}, "activation: 'relu' should be 'quick_gelu' or 'gelu'"),
        (ModelConfig(), {"embed_dim": 0}, "embed_dim: 0 should be at least 1"),
    ],
)
def test_a_wrong_size_is_named(section, change, said):
    assert section.mistakes() == []
    rows = dataclasses.replace(section, **change).mistakes()
    assert len(rows) == 1 and said in rows[0]


def test_two_models_differ_in_what_weights_or_features_depend_on():
    base, large = preset("ViT-L/14"), preset("ViT-L/14@336px")
    assert differences(base, base) == {}
    assert differences(base, large) == {"image.image_size": (224, 336)}
    changed = dataclasses.replace(
        base,
        preset="mine",
        activation="gelu",
        image=dataclasses.replace(base.image, mean=(0.5, 0.5, 0.5)),
        text=dataclasses.replace(base.text, heads=8, weights_dtype="bfloat16"),
    )
    assert differences(changed, base) == {
        "activation": ("gelu", "quick_gelu"),
        "image.mean": ((0.5, 0.5, 0.5), base.image.mean),
        "text.heads": (8, 12),
    }
