"""The table's second views are what they are called, and the digits' rows are those of the methods named."""

import json

import pytest
import torch
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from contrastive_pca_table import Settings, main, mirrored, shifted
from quickstart_data import load_digits


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


def test_the_digits_table(tmp_path, capsys):
    (report,) = main(Settings(output=tmp_path))
    saved = json.loads((tmp_path / "contrastive_pca_digits.json").read_text(encoding="utf-8"))
    assert saved == report
    rows = {(row["method"], row["components"]): row["accuracy"] for row in report["rows"]}
    assert len(rows) == len(report["rows"]) == 8
    digits = load_digits()
    train, test = digits.train[:, 0].flatten(1) / 255, digits.test[:, 0].flatten(1) / 255
    probe = make_pipeline(PCA(9), StandardScaler(), LogisticRegression(max_iter=200, tol=1e-3))
    accuracy = 100 * probe.fit(train.numpy(), digits.train_labels).score(test.numpy(), digits.test_labels)
    assert rows["PCA", 9] == pytest.approx(accuracy, abs=0.6)
    assert "| LDA | 9 |" in capsys.readouterr().out
