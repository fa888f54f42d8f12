"""The table's second views are what they are called, and the digits' rows are those of the methods named."""

import hashlib
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from alphacl_plugins.strategies import build_strategy
from pca_comparison import main, mirrored, shifted, table, trained_network
from pca_settings import Settings
from quickstart_data import load_digits
from recipe.network import Network
from recipe.protocol import DATASETS
from recipe.results import ALWAYS, KEPT

ROOT = Path(__file__).parents[3]
DOCS, SCRIPT = ROOT / "docs", ROOT / "examples" / "theory" / "contrastive_pca_table.py"


def test_shifts_move_by_at_most_so_many_pixels_and_fill_with_black():
    image = torch.zeros(1, 1, 9, 9)
    image[0, 0, 4, 4] = 1
    moved = shifted(image.expand(200, -1, -1, -1), 2, torch.Generator().manual_seed(0))
    places = {(int(where[2]), int(where[3])) for where in moved.nonzero()}
    assert places == {(row, column) for row in range(2, 7) for column in range(2, 7)}
    white = shifted(torch.ones(50, 3, 5, 5), 1, torch.Generator().manual_seed(0))
    assert {int(total) for total in white.sum(dim=(1, 2, 3))} == {75, 60, 48}


def test_half_of_the_images_are_mirrored():
    images = torch.rand(200, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    flipped = (mirrored(images, torch.Generator().manual_seed(1)) == images.flip(3)).all(dim=(1, 2, 3))
    assert 70 < flipped.sum() < 130


@pytest.fixture(scope="module")
def digits_report(tmp_path_factory):
    output = tmp_path_factory.mktemp("table")
    (report,) = main(Settings(output=output))
    return report, json.loads((output / "contrastive_pca_digits.json").read_text(encoding="utf-8"))


def test_the_digits_table(digits_report):
    report, saved = digits_report
    assert saved == report
    rows = {(row["method"], row["components"]): row["accuracy"] for row in report["rows"]}
    assert len(rows) == len(report["rows"]) == 1 + 3 * (1 + 3 * 2) + 2
    digits = load_digits()
    train, test = digits.train[:, 0].flatten(1) / 255, digits.test[:, 0].flatten(1) / 255
    probe = make_pipeline(PCA(9), StandardScaler(), LogisticRegression(max_iter=200, tol=1e-3))
    accuracy = 100 * probe.fit(train.numpy(), digits.train_labels).score(test.numpy(), digits.test_labels)
    assert rows["PCA", 9] == pytest.approx(accuracy, abs=0.6)


def test_turns_to_the_end_end(digits_report):
    ended = [row for row in digits_report[0]["rows"] if "100 turns" in row["method"]]
    assert len(ended) == 9
    assert all(row["residual"] <= 1e-2 and row["turns"] < 100 for row in ended)


def test_a_table_has_a_column_for_each_data_set_and_rounds_what_the_json_has():
    def report(data, *rows):
        keys = ("method", "components", "accuracy", "fit_seconds", "turns")
        return {"data": data, "shape": [1200, 64], "rows": [dict(zip(keys, row, strict=False)) for row in rows]}

    one = report("a", ("features as they are", 64, 98.33, 0.0), ("PCA", 2, 57.94, 0.06))
    other = report("b", ("features as they are", 96, 43.1, 0.0), ("X", 2, 10.26, 583.47, 1), ("Y", 2, 9.0, 1.0, 12))
    assert table([one, other]) == [
        "| method | components | a, 1,200 x 64 | b, 1,200 x 64 |",
        "| --- | --- | --- | --- |",
        "| features as they are | all | 98.3 (0.0 s) | 43.1 (0.0 s) |",
        "| PCA | 2 | 57.9 (0.1 s) |  |",
        "| X | 2 |  | 10.3 (1 turn, 583.5 s) |",
        "| Y | 2 |  | 9.0 (12 turns, 1.0 s) |",
    ]


@pytest.mark.parametrize("names", [("digits", "cifar10_features"), ("cifar10_pixels",)], ids=["all", "whole"])
def test_the_manual_shows_what_the_files_have(names):
    files = [DOCS / "theory" / f"contrastive_pca_{name}.json" for name in names]
    chapter = (DOCS / "theory.md").read_text(encoding="utf-8").splitlines()
    lines = table([json.loads(file.read_text(encoding="utf-8")) for file in files])
    assert [line for line in lines if line not in chapter] == []


@pytest.mark.slow
def test_missing_data_are_one_line_before_anything_is_computed(tmp_path):
    command = [sys.executable, SCRIPT, "--data-root", tmp_path, "--output", tmp_path]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 1
    assert done.stdout == ""
    assert re.fullmatch(
        r"error: data_root: expected torchvision's files of cifar10, whole, or an image folder .*, in .*, got neither; "
        r"--download lets torchvision fetch them\n",
        done.stderr,
    )


def test_images_without_labels_are_an_error_before_anything_is_computed(tmp_path):
    Image.new("RGB", (32, 32)).save(tmp_path / "image.png")
    with pytest.raises(ValueError, match=r"data_root: expected labels, train/<class>/\*"):
        main(Settings(data_root=tmp_path, output=tmp_path / "out"))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"data_root": Path("x"), "checkpoint": Path("no.ckpt")},
            r"checkpoint: expected a file of weights, got no.ckpt",
        ),
        ({"checkpoint": Path("x.ckpt")}, r"data_root: expected a folder with CIFAR-10, .*, got None"),
        ({"download": True}, r"data_root: expected a folder to download to, got None"),
        ({"strategy": "infonc"}, r"did you mean 'infonce'"),
    ],
)
def test_errors_name_the_option(options, message):
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        main(Settings(**options))


def test_a_strategy_without_a_temperature_needs_none(tmp_path):
    settings = Settings(strategy="uniform", components=(2,), turns=(1,), output=tmp_path)
    (report,) = main(settings)
    rows = {row["method"]: row["accuracy"] for row in report["rows"]}
    assert report["strategy"] == "Uniform()"
    assert rows["ContrastivePCA, one view, 1 turn"] == pytest.approx(rows["PCA"], abs=0.6)  # uniform weights: PCA


@pytest.mark.slow
def test_the_temperature_is_the_strategys(tmp_path):
    assert Settings().build_strategy() == build_strategy("infonce", tau=0.5)
    assert Settings(strategy="direct", tau=0.3).build_strategy() == build_strategy("direct", tau=0.3)
    command = [sys.executable, SCRIPT, "--strategy", "uniform", "--tau", "0.5", "--output", tmp_path]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (1, "error: uniform: expected no options, got tau\n")


def test_features_say_how_they_were_trained(tmp_path):
    cifar = DATASETS["cifar10"]
    torch.manual_seed(0)
    network = Network("test_resnet", cifar.image_size, cifar.mean, cifar.std)
    weights = {f"network.{name}": value for name, value in network.state_dict().items()}
    saved = {"state_dict": weights, "recipe": {}, "epoch": 4, "global_step": 155}
    torch.save(saved, tmp_path / "last.ckpt")
    with pytest.raises(FileNotFoundError, match=r"result\.json"):
        trained_network(tmp_path / "last.ckpt", "test_resnet")
    result = {key: {} for key in (*KEPT, *ALWAYS)} | {"strategy": "Direct(tau=0.5)", "settings": {"limit": 4000}}
    result |= {"backbone": "test_resnet", "data": {"image_size": 32}}
    for dataset in ("cifar100", "cifar10"):
        (tmp_path / "result.json").write_text(json.dumps(result | {"dataset": dataset}))
        if dataset == "cifar100":
            with pytest.raises(ValueError, match=r"checkpoint: expected one of cifar10, got one of cifar100: .*last"):
                trained_network(tmp_path / "last.ckpt", "test_resnet")
    loaded = trained_network(tmp_path / "last.ckpt", "test_resnet")
    described = {key: loaded.described[key] for key in ("checkpoint", "backbone", "epochs", "steps", "strategy")}
    assert described == {
        "checkpoint": "last.ckpt", "backbone": "test_resnet", "epochs": 5, "steps": 155, "strategy": "Direct(tau=0.5)",
    }  # fmt: skip
    assert loaded.described["settings"] == {"limit": 4000}
    assert loaded.described["sha256"] == hashlib.sha256((tmp_path / "last.ckpt").read_bytes()).hexdigest()
    images = torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        torch.testing.assert_close(loaded.features(images), network.eval().features(images))
    with pytest.raises(ValueError, match=r"backbone: expected that of .*last.ckpt, test_resnet, got test_vit"):
        trained_network(tmp_path / "last.ckpt", "test_vit")
