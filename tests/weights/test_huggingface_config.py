import dataclasses

import pytest

from clipjax.config import ImageConfig, ModelConfig, TextConfig, preset
from clipjax.errors import UserError
from clipjax.weights.huggingface_config import (
    read_config,
    with_preprocessing,
    write_config,
    write_preprocessing,
)

BARE = {"model_type": "clip", "text_config": {}, "vision_config": {}}
SMALL = ModelConfig(
    preset="",
    embed_dim=12,
    activation="gelu",
    image=ImageConfig(16, 4, 24, 3, 3, (0.5, 0.4, 0.3), (0.2, 0.3, 0.4), "bilinear", "squash"),
    text=TextConfig(context_length=10, vocab_size=100, width=16, layers=2, heads=2, end_token=99),
)


def test_keys_at_their_default_may_be_missing():
    assert read_config(BARE, "x") == dataclasses.replace(preset("ViT-B/32"), preset="")


def test_what_is_written_is_read_again():
    model = read_config(write_config(SMALL), "x")
    assert with_preprocessing(model, write_preprocessing(SMALL.image), "x") == SMALL


def test_older_overrides_replace_all_that_they_know():
    config = {**BARE, "text_config": {"hidden_size": 64, "vocab_size": 300}, "text_config_dict": {"vocab_size": 200}}
    assert read_config(config, "x").text == TextConfig(vocab_size=200, end_token=49407)


def test_the_outer_projection_dim_wins():
    config = {**BARE, "projection_dim": 40, "text_config": {"projection_dim": 50}}
    assert read_config(config, "x").embed_dim == 40


@pytest.mark.parametrize(
    "words, end",
    [
        ({}, 49407),
        ({"eos_token_id": 2}, 49407),
        ({"eos_token_id": 2, "vocab_size": 49500}, 49407),
        ({"eos_token_id": 2, "vocab_size": 100}, 99),
        ({"eos_token_id": 7, "vocab_size": 100}, 7),
    ],
)
def test_the_end_token_is_what_transformers_pools_at(words, end):
    assert read_config({**BARE, "text_config": words}, "x").text.end_token == end


def test_square_sizes_may_come_as_pairs():
    assert read_config({**BARE, "vision_config": {"image_size": [64, 64]}}, "x").image.image_size == 64


@pytest.mark.parametrize(
    "change, reason",
    [
        ({"model_type": "siglip"}, "model_type is 'siglip', a model that is not CLIP"),
        ({"model_type": None}, "model_type is None, a model that is not CLIP"),
        ({"text_config": 3}, "text_config is 3, expected an object"),
        ({"projection_dim": "512"}, "projection_dim is '512', a whole number expected"),
        ({"quantization_config": {}}, "quantised weights cannot be read"),
        ({"text_config": {"hidden_size": -1}}, "text_config.hidden_size is -1, a whole number expected"),
        ({"text_config": {"hidden_size": True}}, "text_config.hidden_size is True"),
        ({"text_config": {"hidden_act": "gelu"}}, "hidden_act is 'gelu', vision_config's 'quick_gelu'"),
        ({"text_config": {"hidden_act": "gelu_new"}}, "hidden_act is 'gelu_new', 'quick_gelu' or 'gelu' expected"),
        ({"text_config": {"eos_token_id": 5}}, "eos_token_id is 5, 49407 expected: this program reads CLIP's token"),
        ({"text_config": {"eos_token_id": [5]}}, "eos_token_id is .5., a whole number"),
        ({"vision_config": {"intermediate_size": 99}}, "intermediate_size is 99, 3072 expected"),
        ({"vision_config": {"layer_norm_eps": 1e-6}}, "layer_norm_eps is 1e-06, 1e-05 expected"),
        ({"vision_config": {"num_channels": 4}}, "num_channels is 4, 3 expected"),
        ({"vision_config": {"image_size": [224, 448]}}, "image_size is .224, 448., a whole number expected"),
    ],
)
def test_what_cannot_be_expressed_is_refused_by_name(change, reason):
    with pytest.raises(UserError, match=f"^here: .*{reason}"):
        read_config({**BARE, **change}, "here")


def test_all_mistakes_are_listed_together():
    with pytest.raises(UserError, match="num_channels.*; .*eos_token_id"):
        read_config({**BARE, "vision_config": {"num_channels": 1}, "text_config": {"eos_token_id": 5}}, "x")


def test_a_resnet_cannot_be_written():
    model = ModelConfig(image=ImageConfig(kind="resnet", stages=(3, 4, 6, 3), layers=0))
    with pytest.raises(UserError, match="has a ResNet as image tower"):
        write_config(model)


def test_an_end_that_transformers_takes_for_another_is_not_written():
    text = dataclasses.replace(SMALL.text, vocab_size=49408, end_token=5)
    with pytest.raises(UserError, match="end_token=5 ends no text of the tokenizer that is written, 49407 does"):
        write_config(dataclasses.replace(SMALL, text=text))
    with pytest.raises(UserError, match="end_token=2 means another thing"):
        write_config(dataclasses.replace(SMALL, text=dataclasses.replace(SMALL.text, end_token=2)))


NEW = {
    "do_resize": True,
    "size": {"shortest_edge": 224},
    "crop_size": {"height": 224, "width": 224},
    "resample": 2,
    "image_mean": [0.5, 0.5, 0.5],
    "image_processor_type": "CLIPImageProcessor",
}
OLD = {"size": 224, "crop_size": 224, "resample": 3, "feature_extractor_type": "CLIPFeatureExtractor"}


def test_both_forms_of_the_preprocessing_are_read():
    new = with_preprocessing(ModelConfig(), NEW, "x").image
    assert (new.interpolation, new.mean, new.resize_mode) == ("bilinear", (0.5, 0.5, 0.5), "shortest")
    assert with_preprocessing(ModelConfig(), OLD, "x") == with_preprocessing(ModelConfig(), {}, "x") == ModelConfig()


def test_a_resize_of_both_sides_is_a_squash():
    square = {**NEW, "size": {"height": 224, "width": 224}}
    assert with_preprocessing(ModelConfig(), square, "x").image.resize_mode == "squash"


@pytest.mark.parametrize(
    "change, reason",
    [
        ({"image_processor_type": "ViTImageProcessor"}, "'ViTImageProcessor' is not CLIP's preprocessing"),
        ({"image_processor_type": ["a"]}, "is not CLIP's preprocessing"),
        ({"do_center_crop": False}, "do_center_crop is False, true expected"),
        ({"do_normalize": 1}, "do_normalize is 1, true expected"),
        ({"rescale_factor": 0.5}, "rescale_factor is 0.5, 1/255 expected"),
        ({"resample": 1}, "resample is 1, 2 .bilinear. or 3 .bicubic. expected"),
        ({"resample": [3]}, "resample is .3."),
        ({"size": {"shortest_edge": 256}}, "size is {'shortest_edge': 256}, 224 expected"),
        ({"size": None}, "size is None, 224 expected"),
        ({"crop_size": 200}, "crop_size is 200, 224 expected"),
        ({"image_mean": "half"}, "image_mean is 'half', a list of numbers expected"),
        ({"image_std": [1, 2]}, "std: .1.0, 2.0. should be three numbers"),
        ({"image_std": [0, 1, 1]}, "should be positive"),
        ({"image_std": [float("inf"), 1, 1]}, "image_std is .inf, 1, 1., a list of numbers"),
    ],
)
def test_other_preprocessing_is_refused_by_name(change, reason):
    with pytest.raises(UserError, match=f"^here: .*{reason}"):
        with_preprocessing(ModelConfig(), {**NEW, **change}, "here")
