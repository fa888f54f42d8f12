"""The examples of hosts run to their end, and infonce is the host's own loss at each step."""

import importlib
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.testing import assert_close

import compared
from compared import UNTRAINED, Run, largest_difference, within_a_seed


def run(example: str, **settings: object) -> list[Run]:
    module = importlib.import_module(example)
    found = module.main(module.Settings(epochs=1, seeds=1, **settings))
    assert [one.method for one in found] == [UNTRAINED, module.HOST, "infonce", "direct"]
    for column, score in found[1].scores.items():
        assert found[2].scores[column] == pytest.approx(score, abs=0.3)  # one held-out sample
    assert all(0 <= score <= 100 for one in found for score in one.scores.values())
    assert found[1].losses
    assert not found[0].losses
    assert_close(torch.tensor(found[2].losses), torch.tensor(found[1].losses), rtol=1e-6, atol=1e-6)
    return found


def test_metric_learning(capsys):
    pytest.importorskip("pytorch_metric_learning")
    found = run("metric_learning_digits", images=100, batch_size=50)
    assert found[1].losses[0] > 0
    assert "infonce is NTXentLoss" in capsys.readouterr().out


@pytest.mark.slow
def test_clip():
    pytest.importorskip("open_clip")
    run("clip_digits", batch_size=512)


@pytest.mark.slow
@pytest.mark.filterwarnings("default")  # of the hosts
def test_sentence_pairs():
    for host in ("sentence_transformers", "datasets", "accelerate"):
        pytest.importorskip(host)
    run("sentence_pairs", pairs=32, batch_size=16)


def test_losses_are_compared_seed_by_seed():
    runs = [Run(*each) for each in (("a", 0, {"x": 1.0}, [1, 2]), ("b", 0, {"x": 3.0}, [1, 2.5]))]
    assert largest_difference(runs, "a", "b") == 0.5
    assert within_a_seed(runs, "x", "b", "a") == "x: b - a = +2.0 points within a seed; ahead in 1 of 1"
    runs += [Run(*each) for each in (("a", 1, {"x": 2.0}, [1, 2]), ("b", 1, {"x": 2.0}, [1, 2]))]
    assert within_a_seed(runs, "x", "b", "a") == "x: b - a = +1.0 ± 1.0 points within a seed; ahead in 1 of 2"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"tau": 0.0}, r"tau: expected a finite number > 0, got 0.0"),
        ({"seeds": 0}, r"seeds: expected an int >= 1, got 0"),
    ],
)
def test_settings_that_cannot_work_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        compared.Settings(**change)


@pytest.mark.parametrize("example", ["sentence_pairs", "metric_learning_digits", "clip_digits"])
def test_the_manuals_table_is_that_of_the_runs(example):
    docs = Path(__file__).parents[2] / "docs"
    page = (docs / "hosts.md").read_text(encoding="utf-8")
    scores = json.loads((docs / "hosts" / f"{example}.json").read_text(encoding="utf-8"))["scores"]
    untrained, host, infonce, direct = (scores[method] for method in scores)
    for column in untrained:
        values = [np.array(of[column]) for of in (untrained, host, infonce, direct)]
        values.append(values[3] - values[1])
        cells = [compared.cell(v.mean(), v.std(ddof=1) / math.sqrt(len(v))) for v in values]
        assert f"| {column} | {' | '.join(cells)} |" in page
