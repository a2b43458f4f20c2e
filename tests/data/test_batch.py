from dataclasses import replace

import jax
import numpy as np
import pytest

from clipjax.config import LossConfig
from clipjax.data.batch import batch_spec
from clipjax.data.pipeline import batches


@pytest.mark.parametrize("masked", [False, True])
def test_batch_spec_is_what_the_pipeline_yields(masked, config_for, shards):
    config = replace(config_for(shards, batch_size=6), loss=LossConfig(mask_duplicates=masked))
    with_data, spec = next(batches(config)), batch_spec(config)
    found, expected = (jax.tree.map(lambda part: (part.shape, part.dtype), batch) for batch in (with_data, spec))
    assert found == expected and (spec.image_keys is not None) == masked
    assert spec.images.shape == (6, 32, 32, 3) and spec.images.dtype == np.uint8


def test_batch_spec_opens_no_data(config_for):
    assert batch_spec(config_for("/nowhere/*.tar")).tokens.shape == (4, 16)


def test_batch_spec_of_cut_texts(config_for):
    spec = batch_spec(config_for("/nowhere/*.tar"), 12)
    assert spec.tokens.shape == (4, 12) and spec.images.shape == (4, 32, 32, 3)
