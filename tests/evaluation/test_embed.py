"""The embedding pass: order, what is embedded once, and the file that keeps it."""

import os

import numpy as np
import pytest

from clipjax.errors import UserError
from clipjax.evaluation.datasets import open_datasets
from clipjax.evaluation.embed import embed


@pytest.fixture
def retrieval(retrieval_folder):
    return open_datasets(retrieval_folder)[0]


def test_rows_stand_in_the_order_of_the_samples(bundle, retrieval):
    rows = embed(bundle, retrieval, batch_size=4)
    assert rows.images.shape == (25, 64) and rows.images.dtype == rows.texts.dtype == np.float32
    assert rows.keys == [sample.key for sample in retrieval.samples]
    assert rows.captions == [caption for sample in retrieval.samples for caption in sample.captions]
    assert rows.owner.tolist() == [row for row, s in enumerate(retrieval.samples) for _ in s.captions]
    np.testing.assert_array_equal(rows.texts, bundle.encode_text(rows.captions))
    np.testing.assert_allclose(np.linalg.norm(rows.images, axis=1), 1, rtol=1e-6)


def test_hosts_that_encode_together_leave_out_what_one_of_them_cannot_read(bundle, retrieval):
    """Each reads the folder itself; with other pictures in a batch, rows would be glued together from several."""
    calls = []

    def greatest(values):  # another host that cannot read the third picture of each batch
        calls.append(np.asarray(values))
        return np.maximum(values, [0, 0, 1, 0]) if len(values) == 4 and len(calls) > 1 else np.asarray(values)

    bundle.greatest = greatest
    whole, rows = [sample.key for sample in retrieval.samples], embed(bundle, retrieval, batch_size=4)
    lost = whole[2:24:4]
    assert rows.keys == [key for key in whole if key not in lost]
    assert rows.missing == [f"{key}: another host cannot read it" for key in lost]
    assert [size for kind, size in bundle.embedded if kind == "pixels"] == [3] * 6 + [1]


def test_hosts_that_see_other_data_are_told_so(bundle, retrieval):
    bundle.greatest = lambda values: np.asarray(values) + (np.arange(len(values)) == 1)
    with pytest.raises(UserError, match="does not hold the same on every host"):
        embed(bundle, retrieval)
    assert bundle.embedded == []


def test_equal_captions_and_equal_class_names_are_embedded_once(
    bundle, retrieval_folder, zeroshot_folder, write_tar, picture
):
    red = picture("red")
    members = {"a.png": red, "a.txt": b"red\nblue", "b.png": red, "b.txt": b"blue\nred"}
    write_tar(retrieval_folder / "test" / "0.tar", members)
    rows = embed(bundle, open_datasets(retrieval_folder)[0])
    assert ("texts", ["red", "blue"]) in bundle.embedded
    np.testing.assert_array_equal(rows.texts[[0, 1]], rows.texts[[3, 2]])
    (zeroshot_folder / "classnames.txt").write_text("red\ngreen\nblue\nred\n")
    rows = embed(bundle, open_datasets(zeroshot_folder)[0])
    assert ("classes", ["blue", "green", "red"]) in bundle.embedded
    np.testing.assert_array_equal(rows.texts[0], rows.texts[3])


def test_classes_are_text_rows_and_labels_are_theirs(bundle, zeroshot_folder):
    dataset = open_datasets(zeroshot_folder)[0]
    rows = embed(bundle, dataset)
    np.testing.assert_array_equal(rows.texts, bundle.class_embeddings(dataset.class_names, dataset.templates))
    assert rows.labels.tolist() == [sample.label for sample in dataset.samples] and rows.captions == []


def test_the_kept_rows_are_those_that_were_computed(bundle, retrieval, tmp_path):
    cache = tmp_path / "kept" / "rows.npz"
    first = embed(bundle, retrieval, cache=cache)
    bundle.embedded.clear()
    second = embed(bundle, retrieval, cache=cache)
    assert bundle.embedded == []
    for name in ("images", "texts", "samples", "owner"):
        np.testing.assert_array_equal(getattr(first, name), getattr(second, name))
    assert (first.key, first.captions, first.missing) == (second.key, second.captions, second.missing)
    assert [path.name for path in cache.parent.iterdir()] == ["rows.npz"]  # no temporary file stays


@pytest.mark.parametrize("damage", [b"", b"no zip at all", None])
def test_a_damaged_file_is_made_anew(bundle, retrieval, tmp_path, damage):
    cache = tmp_path / "rows.npz"
    first = embed(bundle, retrieval, cache=cache)
    cache.write_bytes(cache.read_bytes()[:200] if damage is None else damage)
    np.testing.assert_array_equal(embed(bundle, retrieval, cache=cache).images, first.images)


def test_rows_of_unreadable_pictures_take_their_captions_with_them(bundle, retrieval_folder, write_tar, picture):
    members = {"a.png": b"", "a.txt": b"one\ntwo", "b.png": picture("red"), "b.txt": b"red"}
    write_tar(retrieval_folder / "test" / "0.tar", members)
    rows = embed(bundle, open_datasets(retrieval_folder)[0])
    assert rows.captions == ["red"] and rows.owner.tolist() == [0] and rows.samples.tolist() == [1]
    assert len(rows.missing) == 1 and rows.missing[0].startswith("test/0.tar/a: ")


def test_pictures_are_not_all_decoded_ahead(bundle, class_folder, picture):
    for number in range(500):
        (class_folder / "red" / f"x{number}.png").write_bytes(picture("red"))
    done, ahead = [], []
    preprocess, encode = bundle.preprocess, bundle.encode_pixels
    bundle.preprocess = lambda image: (done.append(1), preprocess(image))[1]
    bundle.encode_pixels = lambda pixels: (ahead.append(len(done)), encode(pixels))[1]
    embed(bundle, open_datasets(class_folder)[0], batch_size=10)
    assert max(seen - 10 * number for number, seen in enumerate(ahead)) <= 10 + 17 * min(32, os.cpu_count())
