import json
import re
from dataclasses import replace

import pytest

from alphacl_plugins import strategy_names
from recipe import run
from recipe.protocol import DATASETS
from recipe.settings import Settings

SMALL = Settings(backbone="test_resnet", epochs=1, batch_size=32, device="cpu", augment_ahead=2, knn_every=1, limit=100)


@pytest.fixture
def settings(digits_folder, tmp_path):
    return replace(SMALL, data_root=digits_folder, output=tmp_path)


def read(path):
    return json.loads(path.read_text(encoding="utf-8"))


def test_a_run_leaves_its_result_its_logs_and_its_weights(settings, capsys):
    path = run.run(DATASETS["cifar10"], replace(settings, epochs=2, eval_epochs=(1,)))
    folder = path.parent
    content = read(path)
    assert path == settings.output / "direct-seed0" / "result.json"
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
    assert re.search(r"epoch 2/2  loss -?\d\.\d{4}  kNN \d+\.\d\d %  [\d,]+ images/s  0:00:00 left", out)
    assert re.search(r"after 2 epochs: linear probe \d+\.\d\d % \(best of 50 epochs\)", out)


def test_a_finished_run_is_not_done_again(settings, monkeypatch):
    path = run.run(DATASETS["cifar10"], settings)
    before = path.read_text(encoding="utf-8")
    with pytest.raises(ValueError, match=r"output: expected a folder without a run, got .*; --resume goes on with it"):
        run.run(DATASETS["cifar10"], settings)
    monkeypatch.setattr(run, "train", None)
    monkeypatch.setattr(run, "evaluate", None)
    run.run(DATASETS["cifar10"], replace(settings, resume=True))
    assert path.read_text(encoding="utf-8") == before


def test_more_epochs_go_on_from_where_a_run_ended(settings):
    run.run(DATASETS["cifar10"], settings)
    content = read(run.run(DATASETS["cifar10"], replace(settings, epochs=3, resume=True)))
    whole = replace(settings, epochs=3, output=settings.output / "whole")
    expected = read(run.run(DATASETS["cifar10"], whole))
    assert list(content["evaluations"]) == ["1", "3"]
    assert content["evaluations"]["3"]["probe_curve"] == expected["evaluations"]["3"]["probe_curve"]


def test_a_run_is_not_resumed_with_other_settings_or_data(settings):
    run.run(DATASETS["cifar10"], settings)
    with pytest.raises(
        ValueError, match=r"resume: expected the settings of the run .* got others: batch_size=32 \(now 16\)"
    ):
        run.run(DATASETS["cifar10"], replace(settings, batch_size=16, resume=True))
    with pytest.raises(ValueError, match=r"got others: limit=100 \(now 90\), other images"):
        run.run(DATASETS["cifar10"], replace(settings, limit=90, resume=True))


def test_a_milestone_that_has_passed_is_an_error(settings):
    run.run(DATASETS["cifar10"], replace(settings, epochs=2, eval_epochs=()))
    with pytest.raises(ValueError, match=r"eval_epochs: expected epochs after 2, where the run is, got 1"):
        run.run(DATASETS["cifar10"], replace(settings, epochs=2, eval_epochs=(1,), resume=True))


def test_a_diverged_training_is_said(settings):
    with pytest.raises(ValueError, match=r"features: expected finite numbers"):
        run.run(DATASETS["cifar10"], replace(settings, learning_rate=1e30, knn_every=0))


@pytest.mark.parametrize("name", strategy_names())
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
