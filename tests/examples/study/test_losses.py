"""Which rows a study has: reading them, what is tuned of each, the values that are tried."""

import math

import pytest
import torch

from alphacl_plugins import metrics, strategy_names
from paired.grids import _reference, beyond, sharpness_option, spread
from paired.losses import Loss, paper_rows, parse_row, parse_rows
from tables.paper import ROWS

NEAREST = """
from dataclasses import dataclass

import torch

from alphacl_plugins import PairWeights


@dataclass(frozen=True)
class Nearest:
    tau: float = 0.5

    def __post_init__(self):
        if self.tau > 10:
            raise ValueError(f"Nearest.tau: expected a number <= 10, got {self.tau}")

    def __call__(self, d2_pos, d2_neg):
        return PairWeights(neg=torch.softmax(-d2_neg / self.tau, dim=1))
"""


def test_infonce_comes_first_whether_named_or_not():
    assert [row.name for row in parse_rows(("square", "direct"), 5)] == ["infonce", "square", "direct"]
    assert [row.name for row in parse_rows(("square", "infonce"), 5)] == ["infonce", "square"]


def test_fixed_options_are_in_the_name_and_in_every_trial():
    row = parse_row("direct:p=6,tau=0.5/0.1", 2)
    assert row.name == "direct:p=6"
    assert [loss.label for loss in row.trials] == ["direct-p=6-tau=0.5", "direct-p=6-tau=0.1"]
    assert row.trials[0].build().strategy.p == 6


def test_a_second_option_is_tried_with_every_value_of_the_first():
    row = parse_row("direct:p=2/4,tau=0.5/0.1", 4)
    assert [dict(loss.options) for loss in row.trials] == [
        {"p": 2.0, "tau": 0.5}, {"p": 2.0, "tau": 0.1}, {"p": 4.0, "tau": 0.5}, {"p": 4.0, "tau": 0.1},
    ]  # fmt: skip


@pytest.mark.parametrize("name", strategy_names())
def test_every_registered_strategy_has_its_trials(name):
    row = parse_row(name, 5)
    assert len({loss.label for loss in row.trials}) == (5 if sharpness_option(name, {}) else 1)


@pytest.mark.parametrize("name", ["infonce", "entropy", "direct", "square", "dhel", "inverse", "inverse_exact", "kcl"])
def test_grids_span_200_to_4_effective_negatives(name):
    losses = parse_row(name, 5).trials
    d2_pos, d2_neg = torch.tensor([0.2]), _reference()
    numbers = [metrics.effective_negatives(loss.build().strategy(d2_pos, d2_neg).neg).item() for loss in losses]
    assert numbers == sorted(numbers, reverse=True)
    expected = [200 / 50 ** (i / 4) for i in range(5)]
    assert all(abs(math.log(a / b)) < 0.3 for a, b in zip(numbers, expected, strict=True)), numbers


def test_a_strategy_of_the_users_own_keeps_to_its_range(tmp_path, monkeypatch):
    (tmp_path / "my_alpha.py").write_text(NEAREST)
    monkeypatch.syspath_prepend(tmp_path)
    values = spread("my_alpha.Nearest", {}, "tau", 5)
    assert len(set(values)) == 5
    assert max(values) <= 10


def test_one_step_beyond_an_end():
    assert beyond((0.4, 0.2, 0.1), 0.4) == 0.8
    assert beyond((0.4, 0.2, 0.1), 0.1) == 0.05
    assert beyond((0.4, 0.2, 0.1), 0.2) is None
    assert beyond((100.0, 1.0), 100.0) == 500


def test_paper_rows_are_those_of_table_1():
    rows = {row.name: row for row in paper_rows()}
    assert rows.keys() == ROWS.keys()
    for name, row in rows.items():
        (loss,) = row.trials
        assert loss.build().strategy == ROWS[name].strategy
        assert loss.build().detach_alpha is ROWS[name].detach_alpha


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (("nonsense",), "strategy: expected one of"),
        (("direct:q=1",), "direct: expected options among tau, p, normalize, got q"),
        (("direct:tau=-1",), "tau: expected"),
        (("direct:tau",), "expected NAME:option=value"),
        (("direct", "direct"), "expected each row once, got direct twice"),
        (("direct:tau=0.5/0.2/0.1",), r"expected 2 values to try for each row \(--trials\), got 3 for direct"),
        (("inverse:tau=1/2,gamma=1/2,eps=1/2",), "at most 2 options with several values"),
    ],
)
def test_mistakes_are_named(texts, message):
    with pytest.raises((ValueError, TypeError), match=message):
        parse_rows(texts, 2)


def test_a_label_is_a_file_name():
    assert Loss("infonce", (("tau", 0.1), ("detach_alpha", False))).label == "infonce-tau=0.1-detach_alpha=false"


@pytest.mark.parametrize("option", ["l2_normalize=false", "symmetric=false", "negatives=cross", "reduction=mean"])
def test_a_row_with_an_option_of_the_loss_is_tuned_all_the_same(option):
    assert len(parse_row(f"infonce:{option}", 5).trials) == 5
