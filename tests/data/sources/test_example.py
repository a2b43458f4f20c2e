import pytest
from tensorflow_datasets.proto import tf_example_pb2

from clipjax.config import DataConfig
from clipjax.data.sources.example import ExampleSource
from clipjax.data.sources.record import RecordError


def serialized(**features):
    example = tf_example_pb2.Example()
    for name, values in features.items():
        example.features.feature[name.replace("__", "/")].bytes_list.value.extend(values)
    return example.SerializeToString()


@pytest.mark.parametrize(
    "features, data, captions",
    [
        ({"image": [b"p"], "captions": [b"one", b" ", b"two"]}, {}, ("one", "two")),
        ({"image": [b"p"], "captions__text": [b"one"]}, {}, ("one",)),
        ({"jpg": [b"p"], "txt": [b"one"]}, {}, ("one",)),
        ({"image": [b"p"], "caption": []}, {}, ()),
        ({"photo": [b"p"], "alt": [b"one"], "caption": [b"x"]}, {"image_key": "photo", "caption_key": "alt"}, ("one",)),
    ],
)
def test_pictures_and_captions_are_found_by_usual_or_given_names(features, data, captions):
    record = ExampleSource([serialized(**features)], "set", DataConfig(**data))[0]
    assert record == ("set#0", b"p", captions)


def test_a_record_is_named_by_its_file_name_if_it_has_one():
    content = serialized(image=[b"p"], caption=[b"one"], image__filename=[b"7.jpg"])
    assert ExampleSource([content], "set", DataConfig())[0].key == "set/7.jpg"


def test_features_as_a_memoryview_will_do():
    content = memoryview(serialized(image=[b"p"], caption=[b"one"]))
    assert ExampleSource([content], "set", DataConfig())[0].image == b"p"


@pytest.mark.parametrize(
    "content, message",
    [
        (b"hello world", "set#0: the record is no tf.train.Example"),
        (serialized(photo=[b"p"], caption=[b"x"]), r"no picture among its features \(caption, photo\); data.image_key"),
        (serialized(image=[b"p"], words=[b"x"]), r"no caption among its features \(image, words\); data.caption_key"),
        (serialized(), r"no picture among its features \(none\)"),
    ],
)
def test_a_record_that_lacks_something_says_what(content, message):
    with pytest.raises(RecordError, match=message):
        ExampleSource([content], "set", DataConfig())[0]


def test_a_picture_feature_without_a_value_is_an_empty_picture():
    assert ExampleSource([serialized(image=[], caption=[b"x"])], "set", DataConfig())[0].image == b""


def test_captions_may_lack_where_they_are_not_needed():
    content = serialized(image=[b"p"], label=[b"x"])
    assert ExampleSource([content], "set", DataConfig(), captions=False)[0] == ("set#0", b"p", ())
