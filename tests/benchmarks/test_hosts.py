"""The benchmark of hosts compares one loss with itself, and its table in the manual is what the JSON says."""

import json
from pathlib import Path

import pytest

from hosts import CASES, Case, Settings, markdown, measured, row

DOCS = Path(__file__).parents[2] / "docs"
NEEDS = {"MultipleNegativesRankingLoss": "sentence_transformers", "ClipLoss": "open_clip"}


@pytest.mark.parametrize("case", [Case(name, 128) for name in dict.fromkeys(case.host_loss for case in CASES)], ids=str)
def test_host_and_ours_are_one_loss(case):
    pytest.importorskip(NEEDS.get(case.host_loss, "pytorch_metric_learning"))
    host, ours = (case.loss(ours)(case.columns()).item() for ours in (False, True))
    assert ours == pytest.approx(host, rel=1e-4, abs=1e-6)


def test_a_failure_is_a_cell_of_the_table():
    found = {"seconds": 0.5, "extra_bytes": 2**20}
    result = {"host_loss": "NTXentLoss", "size": 8, "hard": 0, "host": {"failed": "over 6 GiB"}, "ours": found}
    assert row(result) == "| `NTXentLoss` | 8 | 0 | over 6 GiB | 500 |  | over 6 GiB | 1 |  |"
    assert row(result | {"host": {"seconds": 2.0, "extra_bytes": 2**22}}).split(" | ")[5] == "0.25"


def test_the_manuals_table_is_that_of_the_json():
    results = json.loads((DOCS / "hosts.json").read_text(encoding="utf-8"))["results"]
    assert markdown(results) in (DOCS / "hosts.md").read_text(encoding="utf-8")


@pytest.mark.slow
def test_a_measurement_in_processes_of_its_own():
    pytest.importorskip("pytorch_metric_learning")
    result = measured(Case("NTXentLoss", 128), Settings(rounds=1))
    assert result["ours"]["loss"] == pytest.approx(result["host"]["loss"], rel=1e-5)
    assert 0 <= result["ours"]["extra_bytes"] < result["host"]["extra_bytes"]
