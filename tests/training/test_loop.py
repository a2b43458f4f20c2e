"""The run: saves where it should, goes on by itself, and stops for a reason that it names."""

import json

import jax
import numpy as np
import pytest

import clipjax
from clipjax import checkpoints
from clipjax.config import resolve
from clipjax.errors import UserError
from clipjax.progress import Meter
from clipjax.training import loop
from clipjax.training.feed import Feed
from clipjax.training.loop import Stopped, train
from clipjax.training.program import compile_step
from clipjax.trees import flatten

DEVICES = jax.devices()


@pytest.fixture(autouse=True)
def one_device(monkeypatch):
    """A run takes all devices there are; here that is one."""
    devices = jax.devices()[:1]
    monkeypatch.setattr(jax, "devices", lambda *_: devices)
    monkeypatch.setattr(jax, "local_devices", lambda *_, **__: devices)
    monkeypatch.setattr(jax, "device_count", lambda *_: 1)


def final_state(workdir):
    saved = checkpoints.read(workdir)
    return saved.step, flatten(saved.params)


@pytest.mark.slow
def test_a_run_leaves_what_it_says(tiny, tmp_path, capsys):
    tiny.total_steps = 3
    bundle = train(tiny, tmp_path / "run")
    assert bundle.step == 3
    assert sorted(item.name for item in (tmp_path / "run").iterdir()) == [
        "checkpoints",
        "config.json",
        "metrics.jsonl",
        "tensorboard",
    ]
    rows = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [1, 2, 3]
    assert {"loss", "recall_at_1", "logit_scale", "gradient_norm", "parameter_norm", "learning_rate"} <= set(rows[0])
    assert {"pairs_per_second", "data_wait_share", "skipped_steps"} <= set(rows[0])
    assert sorted(int(item.name) for item in (tmp_path / "run/checkpoints").iterdir()) == [2, 3]
    said = capsys.readouterr().err
    assert "checkpoints:" in said and "metrics:" in said
    loaded = clipjax.load(tmp_path / "run")
    np.testing.assert_array_equal(loaded.encode_text(["a red picture"]), bundle.encode_text(["a red picture"]))


@pytest.mark.slow
def test_a_run_whose_last_checkpoint_fails_is_not_done(tiny, tmp_path, capsys, monkeypatch):
    tiny.total_steps, closed = 3, checkpoints.Checkpoints.close

    def full(saver):
        closed(saver)
        raise UserError("no room is left")

    with monkeypatch.context() as patch, pytest.raises(UserError, match="no room"):
        patch.setattr(checkpoints.Checkpoints, "close", full)
        train(tiny, tmp_path / "run")
    assert "done:" not in capsys.readouterr().err
    train(tiny, tmp_path / "run")
    assert "done: 0 steps" in capsys.readouterr().err


@pytest.mark.slow
def test_a_run_that_was_stopped_goes_on_to_the_same_end(tiny, tmp_path, monkeypatch):
    train(tiny, tmp_path / "whole")
    counted, taken = iter(range(100)), Feed.next
    with monkeypatch.context() as patch, pytest.raises(Stopped, match="step 3"):
        patch.setattr(Feed, "next", lambda self, asked: taken(self, next(counted) == 3))
        train(tiny, tmp_path / "parts")
    assert final_state(tmp_path / "parts")[0] == 3
    train(tiny, tmp_path / "parts")
    (step, expected), (found_step, found) = final_state(tmp_path / "whole"), final_state(tmp_path / "parts")
    assert step == found_step == 6
    for path, leaf in expected.items():
        np.testing.assert_array_equal(found[path], leaf, path)

    def losses(run):
        return [json.loads(line)["loss"] for line in (tmp_path / run / "metrics.jsonl").read_text().splitlines()]

    assert losses("whole") == losses("parts")


@pytest.mark.slow
def test_a_finished_run_is_not_run_again(tiny, tmp_path):
    tiny.total_steps = 2
    train(tiny, tmp_path)
    before = (tmp_path / "metrics.jsonl").read_text()
    assert train(tiny, tmp_path).step == 2
    assert (tmp_path / "metrics.jsonl").read_text() == before


@pytest.mark.slow
def test_a_run_is_not_continued_with_another_model(tiny, tmp_path):
    tiny.total_steps = 2
    train(tiny, tmp_path)
    tiny.model.image.layers = 1
    with pytest.raises(UserError, match="model/image/layers was 2, is 1"):
        train(tiny, tmp_path)


@pytest.mark.slow
def test_a_run_that_is_further_or_has_another_loss_is_left_as_it_was(tiny, tmp_path):
    tiny.total_steps = 3
    train(tiny, tmp_path)
    before = {path.name: path.read_text() for path in tmp_path.glob("*.json*")}
    tiny.total_steps = 2
    with pytest.raises(UserError, match="total_steps: 2, but the run in .* is at step 3. Give more"):
        train(tiny, tmp_path)
    tiny.total_steps, tiny.loss.kind = 4, "sigmoid"
    with pytest.raises(UserError, match="another model, loss or freezing .loss/kind was softmax, is sigmoid"):
        train(tiny, tmp_path)
    assert {path.name: path.read_text() for path in tmp_path.glob("*.json*")} == before and len(before) == 2


@pytest.mark.slow
def test_a_stage_that_does_not_fit_is_told_before_the_first_step(tiny, tmp_path, monkeypatch):
    tiny.total_steps, tiny.stages = 4, [{"share": 0.5, "image_size": 16}]
    monkeypatch.setattr(loop, "compile_step", no_room(lambda at: at >= 2))
    with pytest.raises(UserError, match="^memory: no room"):
        train(tiny, tmp_path)
    assert not (tmp_path / "metrics.jsonl").read_text() and not (tmp_path / "config.json").exists()


@pytest.mark.slow
def test_longer_texts_that_do_not_fit_cost_no_step(tiny, tmp_path, monkeypatch):
    tiny.total_steps, tiny.checkpoint_every = 4, 0
    monkeypatch.setattr(loop._Run, "program", no_room(lambda step: step >= 2, loop._Run.program))
    with pytest.raises(UserError, match="^memory: no room"):
        train(tiny, tmp_path)
    assert checkpoints.read(tmp_path).step == 2
    assert [json.loads(line)["step"] for line in (tmp_path / "metrics.jsonl").read_text().splitlines()] == [1, 2]


@pytest.mark.slow
def test_the_rate_of_a_step_is_told_by_its_own_end(tiny, tmp_path, monkeypatch):
    """On a CPU a step has ended when its program returns, and is read when the next one has."""
    tiny.total_steps, told = 3, []
    run = loop._Run(resolve(tiny), tmp_path, None)
    monkeypatch.setattr(run.telemetry, "record", lambda step, values: told.append(values))
    for step, (began, waited, ended) in enumerate([(10.0, 0.5, 12.0), (12.0, 1.0, 16.0)], 1):
        metrics = {name: np.float32(1) for name in ("loss", "loss_scale", "finite", "gradient_finite")}
        run.settle((step, metrics | {"overflow": np.bool_(False)}, began, waited, 16, ended), Meter("training", 3))
    run.saver.close(), run.telemetry.close(), run.data.close()
    assert [values["pairs_per_second"] for values in told] == [tiny.batch_size / 2, tiny.batch_size / 4]
    assert [values["data_wait_share"] for values in told] == [0.25, 0.25]


def no_room(when, function=compile_step):
    """`function`, which raises where its step fulfils `when`."""

    def made(*arguments):
        if when(arguments[-1] if function is compile_step else arguments[1]):
            raise UserError("memory: no room")
        return function(*arguments)

    return made


@pytest.mark.slow
def test_a_changed_setting_is_said(tiny, tmp_path, capsys):
    tiny.total_steps = 2
    train(tiny, tmp_path)
    tiny.optimizer.weight_decay = 0.3
    train(tiny, tmp_path)
    assert "optimizer/weight_decay 0.2 -> 0.3" in capsys.readouterr().err


@pytest.mark.slow
def test_too_many_steps_that_are_not_finite_end_the_run_with_step_and_tensor(tiny, tmp_path):
    tiny.optimizer.learning_rate = 1e30
    tiny.optimizer.warmup_steps = 0
    tiny.total_steps = 20
    tiny.max_skipped_steps = 3
    with pytest.raises(
        UserError, match=r"step \d+: 3 steps in a row were not finite, first (the gradient of|the loss)"
    ):
        train(tiny, tmp_path)


@pytest.mark.slow
def test_fine_tuning_is_scored_before_its_first_step_and_keeps_what_it_freezes(tiny, colour_folders, tmp_path, capsys):
    tiny.total_steps = 1
    source = train(tiny, tmp_path / "source")
    tiny.update({"init_from": str(tmp_path / "source"), "freeze": "image", "total_steps": 2, "evaluate_every": 2})
    tiny.data.evaluate = str(colour_folders)
    run = tmp_path / "run"
    tuned = train(tiny, run)
    assert sorted(item.name for item in (run / "evaluations").iterdir()) == ["0", "2"]
    assert json.loads((run / "evaluations/0/report.json").read_text())["model"]["weights"] == source.fingerprint
    assert "before and after: colours" in capsys.readouterr().err
    before, after = source.weights().arrays, tuned.weights().arrays
    for path, leaf in before.items():
        assert np.array_equal(after[path], leaf) == path.startswith("image/"), path
    tiny.freeze = "text"
    with pytest.raises(UserError, match="freeze was image, is text"):
        train(tiny, run)


@pytest.mark.slow
def test_a_run_goes_on_with_clipping_and_layer_decay_that_it_began_without(tiny, tmp_path):
    tiny.total_steps = 1
    train(tiny, tmp_path)
    tiny.total_steps = 2
    tiny.optimizer.clip_norm = 1.0
    tiny.optimizer.layer_decay = 0.7
    assert train(tiny, tmp_path).step == 2


@pytest.mark.slow
def test_evaluations_lie_beside_the_steps_and_the_best_stays(tiny, colour_folders, tmp_path):
    tiny.data.evaluate = str(colour_folders)
    tiny.evaluate_every = 2
    tiny.keep_checkpoints = 1
    train(tiny, tmp_path)
    reports = {
        int(item.parent.name): json.loads(item.read_text()) for item in tmp_path.glob("evaluations/*/report.json")
    }
    assert sorted(reports) == [2, 4, 6]
    assert all((tmp_path / f"evaluations/{step}/report.html").is_file() for step in reports)
    scores = {step: np.mean([row["value"] for row in report["results"]]) for step, report in reports.items()}
    best = max(scores, key=lambda step: (scores[step], step))
    assert {int(item.name) for item in (tmp_path / "checkpoints").iterdir()} == {best, 6}


def test_mistakes_are_told_before_data_is_opened(tiny, tmp_path):
    tiny.data.train = str(tmp_path / "nothing-*.tar")
    tiny.batch_size = 15
    tiny.mesh.data = 2
    with pytest.raises(UserError, match="batch_size: 15"):
        train(tiny, tmp_path)


def test_missing_data_is_named(tiny, tmp_path):
    tiny.data.train = str(tmp_path / "nothing-*.tar")
    with pytest.raises(UserError, match="data.train: no file matches '.*nothing-"):
        train(resolve(tiny), tmp_path)
