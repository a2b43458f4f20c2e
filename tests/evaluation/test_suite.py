"""The whole evaluation on a stand-in for a checkpoint: what it returns, writes, reuses and refuses."""

import json
import os
import re

import numpy as np
import pytest

from clipjax.errors import UserError
from clipjax.evaluation import evaluate, evaluate_live

ROW = {"dataset", "protocol", "metric", "value", "n", "low", "high"}


def read(out):
    return json.loads((out / "report.json").read_text())


def by_metric(results):
    return {result.metric: result for result in results}


def test_zero_shot_numbers_of_a_data_set_with_one_known_mistake(bundle, zeroshot_folder, tmp_path):
    results = by_metric(evaluate(bundle, zeroshot_folder, tmp_path / "out"))
    assert set(results) == {"accuracy", "accuracy_top5", "mean_per_class"}
    accuracy = results["accuracy"]
    assert (accuracy.dataset, accuracy.protocol, accuracy.n) == ("zeroshot", "zeroshot", 12)
    assert accuracy.value == pytest.approx(11 / 12) and accuracy.low < 11 / 12 < accuracy.high
    assert accuracy.chance == 0.25
    assert {row["class"]: row["accuracy"] for row in accuracy.per_class}["blue"] == pytest.approx(2 / 3)


def test_report_json_holds_the_rows_and_what_they_rest_on(bundle, zeroshot_folder, retrieval_folder, tmp_path):
    results = evaluate(bundle, [zeroshot_folder, retrieval_folder], tmp_path / "out")
    report = read(tmp_path / "out")
    assert report["checkpoint"] == "fake" and report["step"] == 120 and report["created"]
    assert report["results"] == [result.row() for result in results]
    assert all(set(row) == ROW for row in report["results"])
    assert all(0 <= row["low"] <= row["value"] <= row["high"] <= 1 for row in report["results"])
    assert [part["dataset"] for part in report["datasets"]] == ["zeroshot", "retrieval"]
    assert report["model"]["weights"] == bundle.fingerprint and "lower" in report["measured"]["tie_rule"]
    assert {row["metric"] for row in report["results"]} == {
        *("accuracy", "accuracy_top5", "mean_per_class"),
        *(f"{way}_recall@{k}" for way in ("image_to_text", "text_to_image") for k in (1, 5, 10)),
    }


def test_the_same_input_gives_the_same_files_apart_from_the_time(bundle, zeroshot_folder, tmp_path):
    texts = []
    for out in (tmp_path / "one", tmp_path / "two"):
        evaluate(bundle, zeroshot_folder, out)
        report = read(out)
        texts.append((report | {"created": ""}, re.sub(r"<p class=.lead.>.*", "", (out / "report.html").read_text())))
    assert texts[0] == texts[1]


def test_embeddings_are_reused_until_the_checkpoint_or_the_data_changes(bundle, zeroshot_folder, tmp_path):
    first = evaluate(bundle, zeroshot_folder, tmp_path / "out")
    bundle.embedded.clear()
    assert evaluate(bundle, zeroshot_folder, tmp_path / "out") == first and bundle.embedded == []
    bundle.fingerprint = "other"
    evaluate(bundle, zeroshot_folder, tmp_path / "out")
    assert bundle.embedded
    bundle.embedded.clear()
    (zeroshot_folder / "zeroshot_classification_templates.txt").write_text("{c}\n")
    evaluate(bundle, zeroshot_folder, tmp_path / "out")
    assert bundle.embedded


def test_live_evaluation_gives_the_same_results_and_keeps_no_embeddings(bundle, retrieval_folder, tmp_path):
    out = tmp_path / "live"
    assert evaluate_live(bundle, retrieval_folder, out) == evaluate(bundle, retrieval_folder, tmp_path / "out")
    assert sorted(path.name for path in out.iterdir()) == ["report.html", "report.json"]


def test_a_host_that_does_not_write_leaves_nothing(bundle, zeroshot_folder, tmp_path):
    assert evaluate_live(bundle, zeroshot_folder, tmp_path / "out", write=False)
    assert not (tmp_path / "out").exists()


def test_batch_size_changes_nothing(bundle, retrieval_folder, tmp_path):
    few = evaluate(bundle, retrieval_folder, tmp_path / "a", batch_size=3)
    assert max(count for what, count in bundle.embedded if what == "pixels") == 3
    assert few == evaluate(bundle, retrieval_folder, tmp_path / "b", batch_size=64)


def test_data_is_judged_before_the_checkpoint_is_loaded(tmp_path):
    with pytest.raises(UserError, match="is no folder"):
        evaluate(tmp_path / "no checkpoint", tmp_path / "no data", tmp_path / "out")


def test_an_output_that_is_a_file_is_refused_before_any_work(bundle, zeroshot_folder, tmp_path):
    (tmp_path / "out").write_text("mine")
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "embeddings").write_text("mine")
    for out in ("out", "there"):
        with pytest.raises(UserError, match=f"{out}/embeddings: cannot be made a folder"):
            evaluate(bundle, zeroshot_folder, tmp_path / out)
    with pytest.raises(UserError, match="gs://bucket/out: an address, but results are written to local folders"):
        evaluate(bundle, zeroshot_folder, "gs://bucket/out")
    assert bundle.embedded == []


def test_curves_are_read_from_the_run_of_a_checkpoint_and_the_last_line_of_a_step_counts(
    bundle, zeroshot_folder, tmp_path, monkeypatch
):
    run = tmp_path / "run"
    (run / "checkpoints" / "20").mkdir(parents=True)
    lines = [{"step": 1, "loss": 9.0}, {"step": 2, "loss": 8.0}, {"step": 2, "loss": 7.0}, {"step": 3, "loss": 6.0}]
    (run / "metrics.jsonl").write_text("\n".join(map(json.dumps, lines)) + '\n{"step": 4, "lo')
    from clipjax.evaluation.suite import _curves

    for path in (run, run / "checkpoints" / "20"):
        assert [(line["step"], line["loss"]) for line in _curves(path)] == [(1, 9.0), (2, 7.0), (3, 6.0)]
    assert _curves(tmp_path / "elsewhere") == []
    monkeypatch.chdir(run)  # whose curves are not those of weights that come from elsewhere
    (run / "ViT-B-32.pt").write_bytes(b"weights")
    monkeypatch.setattr("clipjax.bundle.load", lambda source, activation: bundle)
    for source, there in (("ViT-B-32.pt", False), (".", True)):
        evaluate(source, zeroshot_folder, tmp_path / "out")
        assert ("Loss" in (tmp_path / "out" / "report.html").read_text()) == there
    evaluate(bundle, zeroshot_folder, tmp_path / "out", curves=lines)
    assert "Loss" in (tmp_path / "out" / "report.html").read_text()


def test_unreadable_pictures_are_counted_and_named_not_scored(bundle, zeroshot_folder, tmp_path, write_tar, picture):
    good = picture("red")
    members = {"a.png": good, "a.cls": b"0", "b.png": good[:30], "b.cls": b"0", "c.png": b"", "c.cls": b"1"}
    members |= {"d.png": good, "e.cls": b"1"}
    write_tar(zeroshot_folder / "test" / "1.tar", members)
    accuracy = evaluate(bundle, zeroshot_folder, tmp_path / "out")[0]
    assert accuracy.n == 7 and len(accuracy.missing) == 4
    for key in "bcde":
        assert sum(f"1.tar/{key}" in line for line in accuracy.missing) == 1
    assert read(tmp_path / "out")["datasets"][0]["missing"] == list(accuracy.missing)
    assert "4 not scored" in (tmp_path / "out" / "report.html").read_text()
    again = evaluate(bundle, zeroshot_folder, tmp_path / "out")[0]  # from the cache
    assert again == accuracy


def test_names_that_are_no_text_are_reported(bundle, class_folder, tmp_path, picture):
    odd = bytes(class_folder) + b"/caf\xe9"
    os.mkdir(odd)
    for name, content in ((b"/a.jpg", picture("red")), (b"/\xe9.jpg", b"no picture")):
        with open(odd + name, "wb") as file:
            file.write(content)
    accuracy = evaluate(bundle, class_folder, tmp_path / "out")[0]
    assert accuracy.n == 7 and len(accuracy.missing) == 1
    assert "caf?" in str(read(tmp_path / "out")["datasets"][0]["missing"])


def test_nothing_readable_is_the_users_mistake(bundle, class_folder, tmp_path):
    for path in class_folder.glob("*/*.jpg"):
        path.write_bytes(b"no picture")
    with pytest.raises(UserError, match="none of the 6 pictures in .*colours can be read"):
        evaluate(bundle, class_folder, tmp_path / "out")


def test_a_checkpoint_that_gives_nan_is_named(bundle, class_folder, tmp_path):
    bundle.encode_pixels = lambda pixels: np.full((len(pixels), 64), np.nan, np.float32)
    with pytest.raises(UserError, match="checkpoint: fake embeds 6 of 6 pictures of colours"):
        evaluate(bundle, class_folder, tmp_path / "out")
