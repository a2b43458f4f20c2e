"""The sizes of the published models."""

import pytest

from clipjax.config import preset, preset_names
from clipjax.models.catalogue import catalogue, count_parameters, table
from clipjax.models.flops import forward_flops

PUBLISHED = {  # all, image tower, text tower: the release's code, instantiated
    "RN50": (102_007_137, 38_316_896, 63_690_240),
    "RN101": (119_688_033, 56_259_936, 63_428_096),
    "RN50x4": (178_300_601, 87_137_080, 91_163_520),
    "RN50x16": (290_979_217, 167_328_912, 123_650_304),
    "RN50x64": (623_258_305, 420_380_352, 202_877_952),
    "ViT-B/32": (151_277_313, 87_849_216, 63_428_096),
    "ViT-B/16": (149_620_737, 86_192_640, 63_428_096),
    "ViT-L/14": (427_616_513, 303_966_208, 123_650_304),
    "ViT-L/14@336px": (427_944_193, 304_293_888, 123_650_304),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_parameter_counts_are_the_published_ones(name):
    counts = count_parameters(preset(name))
    assert counts == PUBLISHED[name]
    assert counts[0] == counts[1] + counts[2] + 1  # and the logit scale


def test_the_catalogue_has_every_preset_with_its_own_numbers():
    entries = catalogue()
    assert [entry.name for entry in entries] == list(preset_names())
    for entry in entries[:9]:
        assert entry[1:4] == PUBLISHED[entry.name]
        assert entry[4:] == tuple(flops / 1e9 for flops in forward_flops(preset(entry.name)))


def test_the_table_has_a_line_a_model_in_columns():
    lines = table().splitlines()
    assert len(lines) == 1 + len(preset_names()) and len({len(line) for line in lines}) == 1
    assert lines[1].split() == ["RN50", "102,007,137", "38,316,896", "63,690,240", "11.59", "5.96"]
