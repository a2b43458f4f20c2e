import numpy as np

from clipjax.data.batch import batch_spec
from clipjax.data.pipeline import batches


def test_batch_spec_is_what_the_pipeline_yields(config_for, shards):
    config = config_for(shards, batch_size=6)
    with_data, spec = next(batches(config)), batch_spec(config)
    assert [(part.shape, part.dtype) for part in with_data] == [(part.shape, part.dtype) for part in spec]
    assert spec.images.shape == (6, 32, 32, 3) and spec.images.dtype == np.uint8


def test_batch_spec_opens_no_data(config_for):
    assert batch_spec(config_for("/nowhere/*.tar")).tokens.shape == (4, 16)


def test_batch_spec_of_cut_texts(config_for):
    spec = batch_spec(config_for("/nowhere/*.tar"), 12)
    assert spec.tokens.shape == (4, 12) and spec.images.shape == (4, 32, 32, 3)
