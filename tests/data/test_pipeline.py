import io
import logging
import struct
import threading
import time
import zlib
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from clipjax.config import LossConfig, StageConfig
from clipjax.data import pipeline as module
from clipjax.data.order import epoch_order, position_rng
from clipjax.data.pipeline import batches
from clipjax.data.sources import open_source
from clipjax.errors import UserError
from clipjax.images.augment import augment
from clipjax.images.decode import decode
from clipjax.text import END, tokenize
from clipjax.text import decode as words


def take(config, steps, start_step=0, rows=None):
    """Images [steps, rows, size, size, 3] and tokens [steps, rows, L] of the first steps."""
    stream = batches(config, start_step=start_step, rows=rows)
    found = [next(stream)[:2] for _ in range(steps)]
    stream.close()
    return [np.stack(parts) for parts in zip(*found, strict=True)]


def captions_of(tokens):
    return [words(row).strip() for row in tokens.reshape(-1, tokens.shape[-1])]


def numbers_of(tokens):
    """The number in each caption; the tokenizer takes numbers apart into digits."""
    return [int("".join(filter(str.isdigit, caption))) for caption in captions_of(tokens)]


def equal(one, other):
    return all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))


@pytest.fixture
def small_chunks(monkeypatch):
    """Several chunks a batch, the last one shorter, without large batches."""
    monkeypatch.setattr(module, "_CHUNK_ROWS", 3)


def test_the_order_for_seed_42_stays_what_it_is(config_for, shards):
    # A run that resumes after an upgrade goes on at its step. If this list changes, it sees other pairs than it would
    # have seen, and "resume equals uninterrupted" is broken for every checkpoint there is.
    _, tokens = take(config_for(shards, batch_size=4), 4)
    pinned = "6b 7a 9b 3b 0b 11a 14b 10b 5a 2a 4b 12b 1a 13a 8a 0b"
    assert [caption.removeprefix("caption").replace(" ", "") for caption in captions_of(tokens)] == pinned.split()


def test_a_batch_is_what_the_definition_says(config_for, shards):
    config = config_for(shards, batch_size=7, augmentation="random_resized_crop", crop_scale=(0.3, 1.0))
    source = open_source(config.data.train, config.data)
    images, tokens = take(config, 5)
    for position in range(35):
        epoch, place = divmod(position, 15)
        record = source[int(epoch_order(42, epoch, 15)[place])]
        rng = position_rng(42, position)
        caption = record.captions[rng.integers(2)]
        view = augment(decode(record.image, record.key), 32, rng, config.data)
        step, row = divmod(position, 7)
        assert np.array_equal(tokens[step, row], tokenize(caption, 16)[0])
        assert np.array_equal(images[step, row], view)


def test_a_batch_has_the_sizes_of_its_stage_and_captions_keep_their_end(config_for, shards, small_chunks):
    config = config_for(shards, batch_size=7, workers=2)
    config = replace(config, total_steps=6, stages=(StageConfig(1 / 3, 16), StageConfig(1 / 3, 24, 4)))
    stream = batches(config)
    found = [next(stream) for _ in range(6)]
    stream.close()
    assert [(batch.images.shape[1], batch.tokens.shape[1]) for batch in found] == [(16, 16)] * 2 + [(24, 4)] * 2 + [
        (32, 16)
    ] * 2
    for step, batch in enumerate(found):
        alone = batches(config.at(step), start_step=step)  # of a run that has those sizes from the start
        assert equal(next(alone), batch)
        assert ((batch.tokens == END).sum(axis=1) == 1).all()
        alone.close()
    late = batches(config, start_step=3)
    assert equal(next(late), found[3]) and equal(next(late), found[4])
    late.close()


@pytest.mark.parametrize("workers", [0, 1, 2, 4])
@pytest.mark.parametrize("hosts", [1, 2, 4])
def test_the_global_batch_does_not_depend_on_hosts_and_workers(config_for, shards, small_chunks, hosts, workers):
    config = config_for(shards, batch_size=16)
    expected = take(config, 3)
    config = config_for(shards, batch_size=16, workers=workers)
    share = 16 // hosts
    parts = [take(config, 3, rows=slice(host * share, (host + 1) * share)) for host in range(hosts)]
    assert equal([np.concatenate(part, axis=1) for part in zip(*parts, strict=True)], expected)


@pytest.mark.parametrize("workers", [0, 3])
def test_resuming_goes_on_where_the_run_was(config_for, shards, small_chunks, workers):
    config = config_for(shards, batch_size=7, workers=workers)
    images, tokens = take(config, 8)
    assert equal(take(config, 3, start_step=5), [images[5:], tokens[5:]])


def test_rows_may_stand_anywhere_in_the_batch(config_for, shards, small_chunks):
    config, rows = config_for(shards, batch_size=16, workers=2), np.array([15, 3, 3, 8, 0])
    images, tokens = take(config_for(shards, batch_size=16), 2)
    assert equal(take(config, 2, rows=rows), [images[:, rows], tokens[:, rows]])


def test_a_host_without_rows_gets_empty_batches(config_for, shards):
    images, tokens = take(config_for(shards), 2, rows=slice(0, 0))
    assert images.shape == (2, 0, 32, 32, 3) and tokens.shape == (2, 0, 16)


@pytest.mark.parametrize("rows", [1, 5, 100])
def test_the_batch_does_not_depend_on_the_chunks(config_for, shards, monkeypatch, rows):
    expected = take(config_for(shards, batch_size=9), 3)
    monkeypatch.setattr(module, "_CHUNK_ROWS", rows)
    assert equal(take(config_for(shards, batch_size=9, workers=2), 3), expected)


def test_each_epoch_shows_each_record_once_in_an_order_of_its_own(config_for, shards):
    _, tokens = take(config_for(shards, batch_size=5), 9)
    epochs = np.reshape(numbers_of(tokens), (3, 15))
    assert all(sorted(epoch) == list(range(15)) for epoch in epochs.tolist())
    assert len({tuple(epoch) for epoch in epochs.tolist()}) == 3


def test_all_captions_and_crops_come_up(config_for, shards):
    images, tokens = take(config_for(shards, batch_size=15), 12)
    captions = captions_of(tokens)
    assert len(set(captions)) == 30
    views = {
        image.tobytes()
        for image, number in zip(images.reshape(180, -1), numbers_of(tokens), strict=True)
        if number == 3
    }
    assert len(views) > 3


def test_seeds_give_other_orders(config_for, shards):
    assert not equal(take(config_for(shards, seed=1), 1), take(config_for(shards, seed=2), 1))


def test_a_set_smaller_than_a_batch_repeats(config_for, shards):
    _, tokens = take(config_for(f"{shards}/*0.tar", batch_size=23), 2)
    counts = np.bincount(numbers_of(tokens))
    assert counts.tolist() == [10, 9, 9, 9, 9] or sorted(counts.tolist()) == [9, 9, 9, 9, 10]


def test_a_batch_is_not_written_to_again(config_for, shards):
    stream = batches(config_for(shards, workers=2))
    first = next(stream)
    kept = first.images.copy()
    for _ in range(5):
        next(stream)
    assert np.array_equal(first.images, kept)
    stream.close()


# -- records that cannot be used


@pytest.fixture
def spoilt(tmp_path, picture, write_tar):
    """Twelve samples: 2 and 7 are no pictures, 5 has no caption."""
    files = {}
    for number in range(12):
        files[f"{number:02}.jpg"] = picture(number)[: 100 if number in (2, 7) else None]
        files[f"{number:02}.txt"] = "\n" if number == 5 else f"caption {number}"
    return write_tar(tmp_path / "spoilt.tar", files)


def test_the_next_usable_record_of_the_epoch_takes_the_place(config_for, spoilt):
    _, tokens = take(config_for(spoilt, batch_size=12, max_unreadable=0.5), 2)
    found = np.reshape(numbers_of(tokens), (2, 12))
    for epoch in range(2):
        order = epoch_order(42, epoch, 12).tolist() * 2
        expected = [next(record for record in order[place:] if record not in (2, 5, 7)) for place in range(12)]
        assert found[epoch].tolist() == expected


@pytest.mark.parametrize("workers", [1, 3])
def test_replacements_do_not_depend_on_hosts_and_workers(config_for, spoilt, small_chunks, workers):
    expected = take(config_for(spoilt, batch_size=8, max_unreadable=0.5), 4)
    config = config_for(spoilt, batch_size=8, max_unreadable=0.5, workers=workers)
    even, odd = (take(config, 4, rows=slice(host, None, 2)) for host in range(2))
    assert equal(even, [part[:, ::2] for part in expected]) and equal(odd, [part[:, 1::2] for part in expected])


@pytest.mark.parametrize("workers", [0, 3])
def test_what_cannot_be_used_is_counted_once_and_named(config_for, spoilt, caplog, workers):
    stream = batches(config_for(spoilt, batch_size=6, max_unreadable=0.5, workers=workers))
    with caplog.at_level(logging.WARNING):
        for _ in range(6):
            next(stream)
    stream.close()
    assert stream.report() == {"records": 12, "epochs": 3.0, "seen": 12, "unreadable": 2, "empty_captions": 1}
    named = sorted(record.getMessage().split("spoilt.tar/")[1][:2] for record in caplog.records)
    assert named == ["02", "05", "07"]


def test_the_log_names_only_the_first(config_for, tmp_path, picture, write_tar, caplog):
    files = {f"{n}.{form}": b"bad" if form == "jpg" and n else picture() for n in range(60) for form in ("jpg", "txt")}
    stream = batches(config_for(write_tar(tmp_path / "a.tar", files), batch_size=3, max_unreadable=1.0))
    next(stream), next(stream)
    assert len(caplog.records) == 20 and "further ones are only counted" in caplog.records[-1].getMessage()


def test_a_share_above_the_limit_stops_after_an_epoch_of_a_small_set(config_for, spoilt):
    stream = batches(config_for(spoilt, batch_size=6, max_unreadable=0.2))
    with pytest.raises(UserError, match=r"3 of 12 records \(25.0%\) cannot be used .2 unreadable, 1 without a caption"):
        next(stream), next(stream)


def test_a_share_above_the_limit_stops_once_a_hundred_are_seen(config_for, tmp_path, picture, write_tar):
    files = {}
    for number in range(300):
        files |= {f"{number}.jpg": b"bad" if number % 5 == 0 else picture(number, 32, 32), f"{number}.txt": "x"}
    stream = batches(config_for(write_tar(tmp_path / "a.tar", files), batch_size=20, workers=2))
    for _ in range(3):
        next(stream)
    with pytest.raises(UserError, match=r"more than data.max_unreadable=0.1 allows. First: .*a.tar/\d+: no picture"):
        for _ in range(5):
            next(stream)
    stream.close()


def test_no_tolerance_allows_no_bad_record(config_for, spoilt):
    stream = batches(config_for(spoilt, batch_size=12, max_unreadable=0.0))
    with pytest.raises(UserError, match="cannot be used"):
        next(stream)


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("limit", [0.1, 1.0])
def test_a_source_without_one_readable_pair_is_the_users_mistake(config_for, tmp_path, write_tar, workers, limit):
    path = write_tar(tmp_path / "a.tar", {f"{n}.{form}": "x" for n in range(9) for form in ("jpg", "txt")})
    stream = batches(config_for(path, workers=workers, max_unreadable=limit))
    with pytest.raises(
        UserError, match="9 records one after the other cannot be used; the last: .*a.tar/.: no picture"
    ):
        next(stream)
    stream.close()


# -- pictures as they come


def bomb():
    """A valid PNG of 60,000 x 60,000 grey pixels in a few kilobytes."""

    def chunk(name, data):
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(bytes(1 << 20)))
        + chunk(b"IEND", b"")
    )


def saved(image, form, **options):
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def odd_pictures():
    """Name to (bytes, whether it can be used)."""
    noise = np.random.default_rng(0).integers(0, 256, (48, 40, 3), np.uint8)
    rgb = Image.fromarray(noise)
    exif = Image.Exif()
    exif[0x0112] = 6
    frames = [Image.fromarray(np.roll(noise, shift, 0)) for shift in (1, 2)]
    return {
        "rgb.jpg": (saved(rgb, "JPEG"), True),
        "cmyk.jpg": (saved(rgb.convert("CMYK"), "JPEG"), True),
        "grey.jpg": (saved(rgb.convert("L"), "JPEG"), True),
        "rotated.jpg": (saved(rgb, "JPEG", exif=exif), True),
        "palette.png": (saved(rgb.convert("P"), "PNG"), True),
        "bits.png": (saved(rgb.convert("1"), "PNG"), True),
        "alpha.png": (saved(rgb.convert("RGBA"), "PNG"), True),
        "deep.png": (saved(Image.fromarray(noise[..., 0].astype(np.uint16) * 257), "PNG"), True),
        "frames.gif": (saved(rgb, "GIF", save_all=True, append_images=frames), True),
        "moving.webp": (saved(rgb, "WEBP", save_all=True, append_images=frames), True),
        "float.tif": (saved(Image.fromarray(noise[..., 0].astype(np.float32)), "TIFF"), True),
        "dot.png": (saved(rgb.crop((0, 0, 1, 1)), "PNG"), True),
        "wide.jpg": (saved(Image.new("RGB", (20_000, 40), "red"), "JPEG"), True),
        "empty.jpg": (b"", False),
        "cut.jpg": (saved(rgb, "JPEG")[:-400], False),
        "bomb.png": (bomb(), False),
        "text.jpg": (b"<html>404</html>", False),
    }


@pytest.mark.parametrize("workers", [0, 2])
def test_odd_pictures_are_used_or_replaced_and_never_fatal(config_for, tmp_path, write_tar, workers, small_chunks):
    files = {}
    for number, (name, (content, _)) in enumerate(odd_pictures().items()):
        files |= {f"{number:02}.{name.split('.')[1]}": content, f"{number:02}.txt": name.split(".")[0]}
    config = config_for(write_tar(tmp_path / "a.tar", files), batch_size=len(odd_pictures()), max_unreadable=0.5)
    stream = batches(config)
    batch = next(stream)
    usable = {name.split(".")[0] for name, (_, usable) in odd_pictures().items() if usable}
    assert set(captions_of(batch.tokens)) == usable
    assert stream.report()["unreadable"] == len(odd_pictures()) - len(usable)
    stream.close()


def test_colours_that_cannot_become_rgb_are_a_bad_record(config_for, shards, monkeypatch):
    def refuse(*args):
        raise ValueError("conversion from LAB to RGB not supported")

    monkeypatch.setattr(module, "augment", refuse)
    with pytest.raises(UserError, match="train-0000.*: conversion from LAB to RGB not supported"):
        next(batches(config_for(shards)))


@pytest.mark.parametrize("workers", [0, 2])
def test_a_truncated_shard_gives_its_complete_pairs(config_for, shards, tmp_path, capsys, workers):
    data = (shards / "train-00000.tar").read_bytes()
    (tmp_path / "cut.tar").write_bytes(data[: len(data) // 2])
    _, tokens = take(config_for(tmp_path / "cut.tar", workers=workers, max_unreadable=0.5), 3)
    assert set(numbers_of(tokens)) < {0, 1, 2, 3, 4}
    assert "cut short or damaged" in capsys.readouterr().err


def test_an_empty_shard_is_named_at_the_start(config_for, shards, tmp_path):
    (tmp_path / "empty.tar").write_bytes(b"")
    with pytest.raises(UserError, match=r"empty.tar: found an empty file \(0 bytes\)"):
        batches(config_for(shards, tmp_path / "empty.tar"))


# -- workers


@pytest.mark.parametrize("workers", [0, 1, 4])
def test_a_fault_in_a_worker_reaches_the_consumer(config_for, shards, monkeypatch, workers):
    def fault(*args, **options):
        raise RuntimeError("a fault of ours")

    monkeypatch.setattr(module, "decode", fault)
    stream = batches(config_for(shards, workers=workers))
    with pytest.raises(RuntimeError, match="a fault of ours"):
        next(stream)
    stream.close()


def test_reading_ahead_is_bounded(config_for, shards, monkeypatch):
    decoded, lock, others = [], threading.Lock(), set(threading.enumerate())

    def count(data, name, **options):
        with lock:
            decoded.extend([name] if threading.current_thread() not in others else [])
        return decode(data, name, **options)

    monkeypatch.setattr(module, "decode", count)
    stream = batches(config_for(shards, batch_size=64, workers=2))
    next(stream)
    for _ in range(100):  # until the workers have nothing left to do
        before = len(decoded)
        time.sleep(0.05)
        if len(decoded) == before >= 64 + 64:  # fewer: another program has the cores
            break
    assert 64 + 64 <= len(decoded) <= 64 + 64 + 2 * 2 * 32
    stream.close()


def test_nothing_runs_after_close(config_for, shards):
    others = set(threading.enumerate())
    stream = batches(config_for(shards, workers=3))
    next(stream)
    assert set(threading.enumerate()) - others
    stream.close()
    for _ in range(100):
        if not any(thread.name.startswith("grain-prefetch") for thread in set(threading.enumerate()) - others):
            return
        time.sleep(0.05)
    raise AssertionError("workers are still there")


def test_pictures_have_keys_of_their_files_where_duplicates_are_masked(config_for, shards):
    config = config_for(shards, batch_size=8)
    assert next(batches(config)).image_keys is None
    config = replace(config, loss=LossConfig(mask_duplicates=True))
    source = open_source(config.data.train, config.data)
    stream = batches(config)
    for step in range(len(source) // 8 + 2):
        keys = next(stream).image_keys
        epochs, places = np.divmod(np.arange(step * 8, step * 8 + 8), len(source))
        files = [
            source[int(epoch_order(42, int(epoch), len(source))[place])].image
            for epoch, place in zip(epochs, places, strict=True)
        ]
        assert keys.dtype == np.int32
        np.testing.assert_array_equal(
            keys[:, None] == keys[None, :], [[one == other for other in files] for one in files]
        )
