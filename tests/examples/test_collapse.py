"""The healthy and the collapsed training: the script, and what the manual says of its published run."""

import json
from pathlib import Path

import pytest
from PIL import Image

import collapse

MANUAL = Path(__file__).parents[2] / "docs"
PICTURES = ("curves", "singular_values", "similarities", "effective_negatives", "heatmap")


@pytest.mark.slow
def test_positives_alone_collapse(tmp_path, capsys):
    histories = collapse.main(collapse.Settings(epochs=20, output=tmp_path))
    healthy, collapsed = (histories[name][-1] for name in (collapse.HEALTHY, collapse.COLLAPSED))
    assert healthy["uniformity"] < -2 < -0.5 < collapsed["uniformity"]
    assert collapsed["effective_rank"] < 5 < 20 < healthy["effective_rank"]
    assert collapsed["alignment"] < healthy["alignment"]
    assert "positives alone: RepresentationMonitor, after epoch" in capsys.readouterr().out
    for name in PICTURES:
        with Image.open(tmp_path / f"{name}.png") as picture:
            assert picture.width >= 720
    assert json.loads((tmp_path / "collapse.json").read_text())["histories"] == histories


def test_the_manual_says_what_the_published_run_shows():
    page = (MANUAL / "monitor.md").read_text(encoding="utf-8")
    histories = json.loads((MANUAL / "monitor" / "collapse.json").read_text())["histories"]
    healthy, collapsed = histories[collapse.HEALTHY][-1], histories[collapse.COLLAPSED][-1]
    assert f"stays low, here {healthy['uniformity']:.1f}" in page
    assert f"grows, here to {healthy['effective_rank']:.0f}" in page
    assert f"shrinks, here to {collapsed['effective_rank']:.1f} of {collapsed['rank']:.0f}" in page
    assert all((MANUAL / "monitor" / f"{name}.png").exists() for name in PICTURES)


@pytest.mark.parametrize("name", ["epochs", "batch_size"])
def test_errors_say_what_was_expected(name, tmp_path):
    with pytest.raises(ValueError, match=f"{name}: expected an int >= [12], got 0"):
        collapse.main(collapse.Settings(output=tmp_path, **{name: 0}))
