"""Stages: each step has the config of its stage, the last share is the config itself, and mistakes name their stage."""

import dataclasses

import pytest

from clipjax.config import as_configdict, as_json, default_config, from_json, resolve
from clipjax.errors import UserError


def resolved(*stages, **changes):
    config = default_config()
    config.total_steps = 33
    config.optimizer.warmup_steps = 2
    config.stages = stages
    config.update(changes)
    return resolve(config)


def test_every_step_has_the_config_of_its_stage():
    config = resolved(
        dict(share=1 / 3, image_size=96, context_length=20, patch_dropout=0.5), dict(share=0.3, image_size=160)
    )
    assert [config.stage_of(step) for step in range(33)] == [0] * 11 + [1] * 10 + [2] * 12
    first, second, last = (config.at(step) for step in (0, 11, 32))
    assert (first.model.image.image_size, first.model.text.context_length, first.patch_dropout) == (96, 20, 0.5)
    assert (second.model.image.image_size, second.model.text.context_length, second.patch_dropout) == (160, 77, 0.0)
    assert last == config
    unset = dict(stages=(), model=config.model, patch_dropout=0.0)
    assert dataclasses.replace(first, **unset) == dataclasses.replace(config, **unset)  # nothing else is changed


def test_a_config_with_stages_survives_every_form():
    config = resolved(dict(share=0.5, image_size=96), dict(share=0.25))
    assert resolve(as_configdict(config)) == config == from_json(as_json(config))
    assert hash(config) == hash(from_json(as_json(config)))


@pytest.mark.parametrize(
    ("stages", "said"),
    [
        ([dict(share=0.5), dict(share=1.5)], "stages.1.share: 1.5 should be a share of the steps"),
        ([dict(image_size=96)], "stages.0.share: 0.0 should be a share"),
        ([dict(share=0.5), dict(share=0.5)], "stages: their shares are 1 together and leave nothing"),
        (
            [dict(share=0.5, image_size=100)],
            "stages.0.image_size: 100 should be a multiple of model.image.patch_size=32",
        ),
        (
            [dict(share=0.5, context_length=78)],
            "stages.0.context_length: 78 should be at least 3 and at most model.text",
        ),
        ([dict(share=0.5, patch_dropout=1.0)], "stages.0.patch_dropout: 1.0 should be a share of the patches"),
        ([dict(share=0.5, batch_size=3)], "stages.0.batch_size: no such key"),
        ([dict(share="half")], "stages.0.share: 'half' should be a number"),
        ([3], "stages: .* should be a list of sections"),
    ],
)
def test_a_mistake_names_its_stage_and_key(stages, said):
    with pytest.raises(UserError, match=said) as caught:
        resolved(*stages)
    assert "\n" not in str(caught.value)


def test_only_towers_that_are_trained_and_have_patches_leave_some_out():
    with pytest.raises(UserError, match="stages.0.patch_dropout: 0.5 should be 0 for a resnet"):
        resolved(dict(share=0.5, patch_dropout=0.5), model=dict(preset="RN50"))
    with pytest.raises(UserError, match="patch_dropout: 0.5 should be 0 with freeze='image'"):
        resolved(patch_dropout=0.5, freeze="image", init_from="x")
    assert resolved(dict(share=0.5, image_size=96), model=dict(preset="RN50")).at(0).model.image.image_size == 96
