"""Sets are written by tfds itself, which needs no TensorFlow as long as pictures come encoded."""

import io
import sys

import numpy as np
import pytest
import tensorflow_datasets as tfds

from clipjax.config import DataConfig
from clipjax.data.sources import open_source
from clipjax.data.sources.tfds import open_tfds
from clipjax.errors import UserError

FEATURES = {
    "coco_captions": {
        "image": tfds.features.Image(),
        "image/filename": tfds.features.Text(),
        "captions": tfds.features.Sequence({"text": np.str_, "id": np.int64}),
        "objects": tfds.features.Sequence({"label": tfds.features.ClassLabel(names=["cat", "dog"])}),
    },
    "plain_captions": {"image": tfds.features.Image(), "text": tfds.features.Text(), "label": np.int64},
}


def make_builder(name, picture):
    def info(self):
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(FEATURES[name]))

    def examples(self, count):
        for number in range(count):
            example = {"image": io.BytesIO(picture(number))}
            if name == "coco_captions":
                example["image/filename"] = f"{number}.jpg"
                example["captions"] = [{"text": f"{number} {word}", "id": 0} for word in "ab"]
                example["objects"] = [{"label": "cat"}]
            else:
                example |= {"text": f"{number}", "label": number}
            yield number, example

    def splits(self, manager):
        return {"train": examples(self, 8), "val": examples(self, 2)}

    members = {"VERSION": tfds.core.Version("1.1.0"), "_info": info, "_split_generators": splits}
    members |= {"_generate_examples": examples, "code_path": None}  # no package, so no checksums beside it
    if name == "coco_captions":
        members["BUILDER_CONFIGS"] = [tfds.core.BuilderConfig(name="2014")]
    with tfds.core.registered.skip_registration():
        return type(name.title().replace("_", ""), (tfds.core.GeneratorBasedBuilder,), members)


@pytest.fixture(scope="session")
def prepared(tmp_path_factory, picture):
    """A data_dir with coco_captions/2014, as tfds lays it out, and plain_captions; the latter in Parquet too."""
    folder = tmp_path_factory.mktemp("tfds")
    for name in FEATURES:
        make_builder(name, picture)(data_dir=folder, file_format="array_record").download_and_prepare()
    make_builder("plain_captions", picture)(data_dir=folder / "parquet", file_format="parquet").download_and_prepare()
    return folder


@pytest.fixture(autouse=True)
def data_dir(prepared, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(prepared))


@pytest.mark.parametrize(
    "spec, count",
    [
        ("tfds:coco_captions", 8),
        ("tfds:coco_captions/2014", 8),
        ("tfds:coco_captions/2014:val", 2),
        ("tfds:coco_captions/2014:1.1.0:train[:50%]", 4),
        ("tfds:coco_captions:train+val", 10),
        ("tfds:plain_captions", 8),
    ],
)
def test_sets_configs_versions_and_splits_are_found_by_name(spec, count):
    assert len(open_tfds(spec, DataConfig())) == count


def test_pictures_stay_encoded_and_captions_are_all_there(picture):
    records = [open_tfds("tfds:coco_captions", DataConfig())[i] for i in range(8)]
    for record in records:
        number = int(record.key.split("/")[-1].removesuffix(".jpg"))
        assert record.image == picture(number)
        assert record.captions == (f"{number} a", f"{number} b")
    assert len({record.key for record in records}) == 8


def test_a_plain_text_feature_is_a_caption():
    captions = {open_tfds("tfds:plain_captions", DataConfig())[i].captions for i in range(8)}
    assert captions == {(f"{number}",) for number in range(8)}


def test_parquet_is_read_too(prepared, monkeypatch):
    expected = [open_tfds("tfds:plain_captions", DataConfig())[i][1:] for i in range(8)]
    monkeypatch.setenv("TFDS_DATA_DIR", str(prepared / "parquet"))
    source = open_tfds("tfds:plain_captions", DataConfig())
    assert sorted(source[i][1:] for i in range(8)) == sorted(expected)


def test_it_stands_beside_other_sources(shards):
    source = open_source((f"{shards}/*.tar", "tfds:coco_captions:val"), DataConfig())
    assert len(source) == 17 and source[16].captions[0].endswith(" a")


def test_no_tensorflow_is_imported():
    open_tfds("tfds:coco_captions", DataConfig())[0]
    assert "tensorflow" not in sys.modules


@pytest.mark.parametrize(
    "spec, message",
    [
        ("tfds:mscoco_captions", "'mscoco_captions' is not prepared in .*: tfds build mscoco_captions --file_format="),
        ("tfds:coco_captions/2017", "'coco_captions/2017' is not prepared"),
        ("tfds:coco_captions:test", "no split 'test'. There are train, val"),
        ("tfds:coco_captions:train[", "no split 'train\\['"),
        ("tfds:", "should read tfds:NAME"),
        ("tfds:kaggle:", "'kaggle:' should read|should read tfds:NAME"),
        ("tfds:a b,c=3/..", "is not prepared"),
    ],
)
def test_what_cannot_be_opened_says_what_to_do(spec, message):
    with pytest.raises(UserError, match=message):
        open_tfds(spec, DataConfig())


def test_a_damaged_description_is_named(tmp_path, monkeypatch):
    (tmp_path / "odd/1.0.0").mkdir(parents=True)
    for name in ("dataset_info.json", "features.json"):
        (tmp_path / "odd/1.0.0" / name).write_text("{")
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    with pytest.raises(UserError, match="'odd' in .*: its dataset_info.json cannot be read .*Prepare it again"):
        open_tfds("tfds:odd", DataConfig())


def test_a_format_without_random_access_is_named(monkeypatch):
    def refuse(*args, **options):
        raise NotImplementedError("tfrecord")

    monkeypatch.setattr(tfds.core.DatasetBuilder, "as_data_source", refuse)
    with pytest.raises(UserError, match="prepared in a format without random access.*--file_format=array_record"):
        open_tfds("tfds:coco_captions", DataConfig())
