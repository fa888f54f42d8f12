"""What is chosen and what fits: the best value, one step beyond an end, fewer epochs, then fewer seeds."""

import numpy as np
import pytest
from scipy import stats

from paired.budget import Left, make_plan
from paired.differences import Judged, compare, interval, judged_rows
from paired.losses import Loss, parse_row
from paired.tuning import best_of, extension, scores_of

ROW = parse_row("direct:tau=0.4/0.2/0.1", 3)


def scores(*values):
    return dict(zip(ROW.trials, values, strict=True))


def test_the_best_value_is_that_of_the_highest_mean():
    probes = {(loss, seed): 50 + i + seed for i, loss in enumerate(ROW.trials) for seed in range(2)}
    found = scores_of(ROW.trials, 2, probes)
    assert list(found.values()) == [50.5, 51.5, 52.5]
    assert best_of(found) == ROW.trials[2]
    assert best_of(scores(1, 1, 0)) == ROW.trials[0]


def test_a_value_that_was_not_tried_on_all_seeds_is_no_candidate():
    probes = {(loss, 0): 50.0 for loss in ROW.trials} | {(ROW.trials[0], 1): 50.0}
    assert list(scores_of(ROW.trials, 2, probes)) == [ROW.trials[0]]


@pytest.mark.parametrize(("values", "further"), [((3, 2, 1), 0.8), ((1, 3, 2), None), ((1, 2, 3), 0.05)])
def test_a_best_value_at_an_end_is_followed_by_one_more(values, further):
    loss = extension(ROW, scores(*values))
    assert (loss and dict(loss.options)) == (further and {"tau": further})


def test_with_two_options_only_the_sharpness_goes_further():
    row = parse_row("direct:p=2/4,tau=0.5/0.1", 4)
    assert extension(row, dict(zip(row.trials, (1, 2, 3, 9), strict=True))) == row.with_values({"p": 4.0, "tau": 0.02})


def plan(available, jobs=2, seeds=5):
    return make_plan(
        lambda n: Left(20, 4, 4 * n), lambda epochs: 10.0 * epochs, jobs, range(3, 11), seeds, available / 60 + 1, 60
    )


def test_epochs_are_cut_first_then_seeds():
    rounds = 10 + 2 + 10
    whole = 1.1 * rounds * 100 + 20
    assert plan(whole + 0.001).epochs == 10
    assert (plan(whole - 1).epochs, plan(whole - 1).seeds) == (9, 5)
    least = 1.1 * rounds * 30 + 20
    assert (plan(least + 0.001).epochs, plan(least + 0.001).seeds) == (3, 5)
    assert (plan(least - 1).epochs, plan(least - 1).seeds) == (3, 4)


def test_what_cannot_fit_is_refused_with_the_time_that_it_takes():
    seconds = 1.1 * (10 + 2 + 4) * 30 + 20
    assert plan(seconds + 0.001).seeds == 2
    with pytest.raises(
        ValueError, match=rf"minutes: expected at least {(seconds + 60) / 60 + 0.1:.1f} for 3 epochs and 2 seeds, got 6"
    ):
        plan(300)


def test_a_plan_announces_full_rounds():
    assert plan(1e9, jobs=3).seconds == pytest.approx(1.1 * (7 + 2 + 7) * 100 + 20)


def test_the_interval_is_that_of_a_paired_t_test():
    generator = np.random.default_rng(0)
    a, b = generator.normal(50, 1, 8), generator.normal(51, 1, 8)
    expected = stats.ttest_rel(b, a).confidence_interval(0.95)
    found = interval(list(b - a))
    assert (found.mean - found.half, found.mean + found.half) == pytest.approx((expected.low, expected.high))
    assert (found.wins, found.n) == (int((b > a).sum()), 8)


def test_one_seed_has_no_interval():
    assert interval([1.0]).half is None


def content(kind, row, seed, probe, **options):
    return {"kind": kind, "row": row, "loss": {"strategy": row, "options": options}, "seed": seed, "probe": probe}


def test_rows_are_compared_on_the_seeds_that_they_share_with_tuned_infonce():
    rows = judged_rows(
        [content("paper", "infonce", seed, 40.0) for seed in (1, 2, 3)]
        + [content("tuned", "infonce", seed, 50.0 + seed, tau=0.1) for seed in (1, 2)]
        + [content("tuned", "direct", seed, 52.0 + 2 * seed) for seed in (2, 1, 7)]
    )
    assert [row.title for row in rows] == ["infonce", "direct", "infonce, as in the paper"]
    found = compare(rows[1], rows[0], "probe")
    assert (found.mean, found.wins, found.n) == (3.5, 2, 2)
    assert compare(Judged("tuned", "x", Loss("x"), {9: {"probe": 1.0}}), rows[0], "probe") is None


def test_without_tuned_infonce_that_of_the_paper_is_the_baseline():
    rows = judged_rows([content("paper", name, 1, 40.0) for name in ("direct", "infonce")])
    assert rows[0].title == "infonce, as in the paper"
