"""report.json: what a number rests on."""

import json

from clipjax.evaluation.report.record import MEASURED, record
from clipjax.text import identity


def test_the_record_is_plain_json_and_does_not_depend_on_when_it_is_made(bundle, classified, retrieved):
    first = record(bundle, [classified, retrieved], created="2026-01-01T00:00:00+00:00")
    second = record(bundle, [classified, retrieved], created="2026-01-02T00:00:00+00:00")
    assert json.loads(json.dumps(first, allow_nan=False)) == first
    assert first | {"created": 0} == second | {"created": 0}


def test_weights_preprocessing_tokenizer_prompts_and_rules_are_told(bundle, classified):
    about = record(bundle, [classified], created="")
    model, dataset = about["model"], about["datasets"][0]
    assert model["weights"] == bundle.fingerprint and model["parameters"] == 15
    assert model["pairs_seen"] == 120 * bundle.config.batch_size
    assert "32 px, bicubic" in model["preprocessing"]["resize"] and len(model["preprocessing"]["mean"]) == 3
    assert model["tokenizer"]["sha256"] == identity()["sha256"]
    assert dataset["prompts"] == {
        "templates": ["a photo of a {c}.", "a {c} thing"],
        "default": False,
        "hash": classified.dataset.prompts_hash,
    }
    assert about["measured"] == MEASURED and set(MEASURED["interval"]) == {
        *("accuracy", "accuracy_top5", "mean_per_class", "image_to_text_recall", "text_to_image_recall")
    }


def test_the_confusion_is_listed_with_its_size(bundle, classified):
    about = record(bundle, [classified], created="")["datasets"][0]
    assert about["confused"] == [{"class": "blue", "taken_for": "red", "times": 1, "n": 3}]


def test_weights_without_a_step_have_seen_an_unknown_number_of_pairs(bundle, classified):
    bundle.step = None
    assert record(bundle, [classified], created="")["model"]["pairs_seen"] is None
