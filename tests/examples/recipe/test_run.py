import json
import math
import os
import re
import shutil
import signal
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from looks import watch_looks
from selection import slow_but

from alphacl_plugins import strategy_names
from provenance import held
from recipe import run
from recipe.pretraining import Pretraining
from recipe.protocol import DATASETS
from recipe.results import _check_same_run
from recipe.settings import Settings
from recipe.stopping import AtomicCheckpointIO, Stopped

SMALL = Settings(
    backbone="test_resnet", epochs=1, batch_size=32, schedule="paper", device="cpu", augment_ahead=2, knn_every=1,
    limit=100,
)  # fmt: skip


@pytest.fixture
def settings(digits_folder, tmp_path):
    return replace(SMALL, data_root=digits_folder, output=tmp_path)


def read(path):
    return json.loads(path.read_text(encoding="utf-8"))


def test_a_run_leaves_its_result_its_logs_and_its_weights(settings, capsys):
    path = run.run(DATASETS["cifar10"], replace(settings, epochs=2, eval_epochs=(1,)))
    folder = path.parent
    content = read(path)
    assert path == settings.folder("cifar10") / "result.json"
    assert (content["host"], content["dataset"], content["backbone"]) == ("lightly", "cifar10", "test_resnet")
    assert (content["loss"], content["seed"]) == ("direct", 0)
    assert content["strategy"] == "Direct(tau=0.5, p=4.0, normalize=True)"
    assert content["data"] | {"sha256": ""} == {
        "source": "image folder digits",
        "train": 100,
        "test": 100,
        "unlabeled": 0,
        "classes": 10,
        "image_size": 32,
        "sha256": "",
    }
    assert list(content["evaluations"]) == ["1", "2"]
    for judged in content["evaluations"].values():
        assert len(judged["probe_curve"]) == 50
        assert judged["probe_best"] == max(judged["probe_curve"])
        assert 0 <= judged["knn"] <= 100
    assert [row["epoch"] for row in content["curve"]] == [1, 2]
    assert content["times"]["images_per_second"] > 0
    (environment,) = content["environments"]
    assert {"torch", "lightning", "lightly", "timm", "kornia"} <= environment["versions"].keys()
    assert "commit" in environment
    assert str(settings.data_root) not in path.read_text(encoding="utf-8")
    assert {"last.ckpt", "epoch-1.ckpt", "epoch-2.ckpt", "tensorboard", "csv"} <= {
        file.name for file in folder.iterdir()
    }
    assert list((folder / "tensorboard").glob("events*"))
    (table,) = (folder / "csv").glob("*/metrics.csv")
    assert "epoch/loss" in table.read_text().splitlines()[0]
    out = capsys.readouterr().out
    assert "note: not the whole of cifar10: 100 of 50,000 train, 100 of 10,000 test images" in out
    assert re.search(r"epoch 2/2  loss -?\d\.\d{4}  kNN \d+\.\d\d %  [\d,]+ images/s  0:00:00 of training left", out)
    assert re.search(r"after 2 epochs: linear probe \d+\.\d\d % \(best of 50 epochs\)", out)


@pytest.mark.slow
def test_adam_steps_at_the_rate_of_the_paper(settings, monkeypatch, capsys):
    used = []
    step = torch.optim.Adam.step

    def record(self, *args, **kwargs):
        if len(self.param_groups[0]["params"]) > 2:  # not the probe's
            used.append(self.param_groups[0]["lr"])
        return step(self, *args, **kwargs)

    monkeypatch.setattr(torch.optim.Adam, "step", record)
    run.run(DATASETS["cifar10"], replace(settings, epochs=14, eval_epochs=(12,), knn_every=0))
    assert "note: schedule: the paper's learning rate is 0 after 13 of 14 epochs" in capsys.readouterr().out
    expected = [0.01 * (1 + math.cos(math.pi * max(0, epoch - 10) / 3)) / 2 for epoch in range(14) for _ in range(3)]
    assert used == pytest.approx(expected, rel=1e-12, abs=1e-12)


def test_statistics_are_computed_every_50_steps_and_at_the_first_of_an_epoch(settings, monkeypatch):
    looks = watch_looks(monkeypatch)
    rows = read(run.run(DATASETS["cifar10"], replace(settings, epochs=2, batch_size=2, limit=102)))["curve"]
    assert len(looks) == 4  # steps 0 and 50 of 51
    for row, (first, second) in zip(rows, (looks[:2], looks[2:]), strict=True):
        for name in first:
            assert row[name] == pytest.approx((first[name].item() + second[name].item()) / 2)


def test_the_folder_of_a_run_is_held_while_it_runs(settings):
    message = r"output: expected a folder in which nothing runs, got .*direct.*seed0"
    with held(settings.folder("cifar10")), pytest.raises(ValueError, match=message):
        run.run(DATASETS["cifar10"], settings)
    run.run(DATASETS["cifar10"], settings)


@pytest.mark.parametrize(
    "changes", [{"batch_size": 128}, {"backbone": "no_such_net"}, {"data_root": Path("nowhere")}, {"device": "cuda"}]
)
def test_an_error_leaves_no_run_behind(changes, settings):
    if changes.get("device") == "cuda" and torch.cuda.is_available():
        pytest.skip("there is a GPU")
    with pytest.raises((ValueError, FileNotFoundError), match=r": expected .*got "):
        run.run(DATASETS["cifar10"], replace(settings, **changes))
    assert not list(settings.output.rglob("result.json"))


def test_weights_without_their_result_are_not_taken_over(settings):
    path = run.run(DATASETS["cifar10"], settings)
    path.unlink()
    with pytest.raises(ValueError, match=r"output: expected checkpoints with their result.json, got some without it"):
        run.run(DATASETS["cifar10"], replace(settings, resume=True))


@pytest.mark.parametrize("content", ["", "{}", '{"settings": {'])
def test_a_result_that_is_none_is_named(content, settings):
    path = run.run(DATASETS["cifar10"], settings)
    path.write_text(content)
    with pytest.raises(ValueError, match=rf"results: expected .*{path.name}"):
        run.run(DATASETS["cifar10"], replace(settings, resume=True))


@pytest.mark.parametrize("size", [0, 1000])
def test_a_checkpoint_that_is_cut_off_is_named(size, settings):
    path = run.run(DATASETS["cifar10"], settings)
    last = path.with_name("last.ckpt")
    last.write_bytes(last.read_bytes()[:size])
    with pytest.raises(ValueError, match=r"resume: expected a checkpoint, got a file that cannot be read.*last.ckpt"):
        run.run(DATASETS["cifar10"], replace(settings, epochs=2, resume=True))


def test_a_run_that_stopped_within_the_next_epoch_is_not_judged_as_before_it(settings, monkeypatch):
    training_step = Pretraining.training_step

    def interrupted(self, batch, batch_index):
        if (self.current_epoch, batch_index) == (1, 1):
            os.kill(os.getpid(), signal.SIGTERM)
        return training_step(self, batch, batch_index)

    monkeypatch.setattr(Pretraining, "training_step", interrupted)
    with pytest.raises(Stopped, match=r"^143$"):
        run.run(DATASETS["cifar10"], replace(settings, epochs=2, eval_epochs=()))
    with pytest.raises(ValueError, match=r"eval_epochs: .* got 1; the run is in epoch 2"):
        run.run(DATASETS["cifar10"], replace(settings, epochs=1, resume=True))


def test_a_full_disk_is_an_error_and_the_checkpoint_before_stays(tmp_path, monkeypatch):
    io, path = AtomicCheckpointIO(), tmp_path / "last.ckpt"
    io.save_checkpoint({"recipe": 1}, path)

    save = torch.save
    with Path("/dev/full").open("wb", buffering=0) as full:
        monkeypatch.setattr(torch, "save", lambda checkpoint, _: save(checkpoint, full))
        with pytest.raises(OSError, match=r"^output: expected room for a checkpoint in .*: No space left on device$"):
            io.save_checkpoint({"recipe": torch.zeros(10**5)}, path)
        monkeypatch.undo()
    assert torch.load(path) == {"recipe": 1}
    assert list(tmp_path.iterdir()) == [path]


def test_a_finished_run_is_not_done_again(settings, monkeypatch):
    path = run.run(DATASETS["cifar10"], settings)
    before = path.read_text(encoding="utf-8")
    with pytest.raises(ValueError, match=r"output: expected a folder without a run, got .*; --resume goes on with it"):
        run.run(DATASETS["cifar10"], settings)
    monkeypatch.setattr(run, "train", None)
    monkeypatch.setattr(run, "evaluate", None)
    run.run(DATASETS["cifar10"], replace(settings, resume=True))
    assert path.read_text(encoding="utf-8") == before


@pytest.mark.slow
def test_more_epochs_go_on_from_where_a_run_ended(settings):
    run.run(DATASETS["cifar10"], settings)
    content = read(run.run(DATASETS["cifar10"], replace(settings, epochs=3, resume=True)))
    whole = replace(settings, epochs=3, output=settings.output / "whole")
    expected = read(run.run(DATASETS["cifar10"], whole))
    assert list(content["evaluations"]) == ["1", "3"]
    assert content["evaluations"]["3"]["probe_curve"] == expected["evaluations"]["3"]["probe_curve"]


def test_a_run_is_not_resumed_with_other_settings_or_data(settings, tmp_path):
    run.run(DATASETS["cifar10"], settings)
    changed = shutil.copytree(settings.data_root, tmp_path / "changed", ignore=shutil.ignore_patterns(".cache"))
    for image in (changed / "test" / "0").iterdir():
        shutil.copyfile(sorted((changed / "test" / "1").iterdir())[0], image)
    for changes, message in (
        ({"augment_ahead": 3}, r"resume: expected the settings of the run .* got others: augment_ahead=2 \(now 3\)"),
        (
            {"data_root": changed},
            r"other images \(image folder digits, .* sha256 of the pixels \w{10}; now image folder changed, ",
        ),
    ):
        with pytest.raises(ValueError, match=message):
            run.run(DATASETS["cifar10"], replace(settings, **changes, resume=True))


def test_a_run_is_not_resumed_by_another_host_or_with_other_weights(settings):
    path = run.run(DATASETS["cifar10"], settings)
    found = read(path)
    for changes, message in (
        ({"host": "solo-learn"}, r"got others: host=solo-learn \(now lightly\)$"),
        ({"strategy": "Direct(tau=0.1)"}, r"got others: weights=Direct\(tau=0.1\) \(now Direct\(tau=0.5, p=4.0, "),
    ):
        path.write_text(json.dumps(found | changes), encoding="utf-8")
        with pytest.raises(ValueError, match=message):
            run.run(DATASETS["cifar10"], replace(settings, resume=True))


def test_a_strategy_without_words_of_its_own_is_the_same_after_a_restart(settings):
    path = run.run(DATASETS["cifar10"], settings)
    found = read(path)
    words = [f"<my_alpha.Mine object at 0x{address}>" for address in ("7f12ab", "7F34CD")]
    check = [found | {"strategy": each} for each in words]
    _check_same_run(*check, path.parent, resume=True)


def test_a_run_goes_on_by_the_schedule_that_it_had(settings):
    path = run.run(DATASETS["cifar10"], settings)
    early = read(path)
    assert early["settings"].pop("schedule") == "paper"  # as results were, before there was a choice
    path.write_text(json.dumps(early), encoding="utf-8")
    own = replace(settings, schedule=None, resume=True)
    with pytest.raises(ValueError, match=r"got others: schedule=paper \(now cosine\)"):
        run.run(DATASETS["cifar10"], own)
    run.run(DATASETS["cifar10"], replace(own, schedule="paper"))


def test_a_cosine_ends_where_it_was_to_end(settings, capsys):
    options = replace(settings, schedule=None, epochs=2, eval_epochs=(1,))  # images of one's own, by their number
    path = run.run(DATASETS["cifar10"], options)
    assert read(path)["settings"]["schedule"] == "cosine"
    assert [row["lr"] for row in read(path)["curve"]] == pytest.approx([0.01, 0.005])
    with pytest.raises(ValueError, match=r"got others: epochs=2 \(now 3\)"):
        run.run(DATASETS["cifar10"], replace(options, epochs=3, resume=True))


def test_images_without_labels_are_pretrained_on_and_not_judged(settings, tmp_path, capsys):
    flat = tmp_path / "flat"
    flat.mkdir()
    for file in (settings.data_root / "train").glob("*/*"):
        shutil.copyfile(file, flat / f"{file.parent.name}-{file.name}")
    options = replace(settings, data_root=flat, output=tmp_path / "out", epochs=2, eval_epochs=(1,))
    diverging = replace(options, learning_rate=1e30)
    with pytest.raises(ValueError, match=r"weights: expected finite numbers, got others in .*epoch-1.ckpt; .*diverged"):
        run.run(DATASETS["cifar10"], diverging)
    capsys.readouterr()
    path = run.run(DATASETS["cifar10"], options)
    out = capsys.readouterr().out
    assert "data of your own, as cifar10 (image folder flat, without labels): 100 train images" in out
    assert "after 1 epoch: no evaluation, as there are no labels" in out
    assert "after 2 epochs: no evaluation, as there are no labels" in out
    run.run(DATASETS["cifar10"], replace(options, resume=True))
    content = read(path)
    assert content["evaluations"] == {}
    assert len(content["curve"]) == 2
    assert "knn" not in content["curve"][1]
    assert (content["data"]["classes"], content["data"]["test"]) == (0, 0)
    assert path.with_name("epoch-2.ckpt").exists()


def test_what_is_often_tried_has_a_folder_of_its_own(settings):
    tries = [{}, {"batch_size": 16}, {"learning_rate": 0.1}, {"limit": 90}, {"precision": "bf16"}, {"seed": 1}]
    tries.append({"schedule": "cosine"})
    folders = {replace(settings, **changes).folder("cifar10") for changes in tries}
    assert len(folders) == len(tries)
    assert settings.folder("cifar10") != settings.folder("stl10")


def test_data_of_your_own_are_not_said_to_lack_anything(settings, capsys):
    run.run(DATASETS["cifar10"], replace(settings, classes=10))
    out = capsys.readouterr().out
    assert "data of your own, as cifar10 (image folder digits): 100 train + 100 test images" in out
    assert "note:" not in out


def test_a_milestone_that_has_passed_is_an_error(settings):
    run.run(DATASETS["cifar10"], replace(settings, epochs=2, eval_epochs=()))
    with pytest.raises(
        ValueError, match=r"eval_epochs: expected epochs that are still to come, got 1; the run is after epoch 2"
    ):
        run.run(DATASETS["cifar10"], replace(settings, epochs=2, eval_epochs=(1,), resume=True))


def test_a_diverged_training_is_said(settings):
    with pytest.raises(ValueError, match=r"features: expected finite numbers"):
        run.run(DATASETS["cifar10"], replace(settings, learning_rate=1e30, knn_every=0))


@pytest.mark.parametrize("name", slow_but(["direct", "infonce", "square"], strategy_names()))
@pytest.mark.parametrize("precision", ["32", pytest.param("bf16", marks=pytest.mark.slow)])
def test_every_strategy_trains(name, precision, settings):
    options = replace(settings, strategy=name, precision=precision, knn_every=0)
    content = read(run.run(DATASETS["cifar10"], options))
    assert content["loss"] == name
    assert 0 <= content["evaluations"]["1"]["probe_last"] <= 100


@pytest.mark.parametrize("loss", ["infonce", "quadratic", "backprop"])
def test_the_other_rows_of_table_1_train(loss, settings):
    assert read(run.run(DATASETS["cifar10"], replace(settings, loss=loss)))["loss"] == loss


@pytest.mark.slow
def test_a_compiled_network_has_the_same_weights_by_name(settings):
    settings = replace(settings, learning_rate=1e-6)  # Adam's first steps at the paper's make much of rounding
    plain = read(run.run(DATASETS["cifar10"], settings))
    compiled = replace(settings, compile=True, output=settings.output / "compiled")
    content = read(run.run(DATASETS["cifar10"], compiled))
    assert content["curve"][0]["loss"] == pytest.approx(plain["curve"][0]["loss"], abs=1e-3)
    resumed = replace(compiled, compile=False, epochs=2, resume=True)
    assert list(read(run.run(DATASETS["cifar10"], resumed))["evaluations"]) == ["1", "2"]


@pytest.mark.slow
@pytest.mark.parametrize("backbone", ["resnet18", "resnet50"])
@pytest.mark.parametrize("dataset", ["cifar10", "cifar100", "stl10"])
def test_the_recipes(dataset, backbone, settings):
    options = replace(settings, backbone=backbone, limit=40, classes=10)
    content = read(run.run(DATASETS[dataset], options))
    assert content["data"]["image_size"] == DATASETS[dataset].image_size
    assert content["settings"]["backbone"] == backbone
