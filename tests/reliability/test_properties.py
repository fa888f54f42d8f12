"""What holds for every strategy, whatever it is given: drawn by hypothesis, each failure shrunk to a small case."""

import math
import re
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from oracles import is_finite, random_distances, relative_error
from reliability import record
from reliability.cases import FORMS, Case, both_forms, cases, default_strategy, drawn_strategies, every_name, moderate
from torch import Tensor

from alphacl_plugins import AlphaCLLoss
from alphacl_plugins.strategies import Circle, LiftedStructured

FAR = torch.tensor([[1e30]])
DOCUMENTED = re.compile(r"[\w.]+(\[\d+\])?: expected ")


def sizes(case: Case) -> tuple[float, float]:
    """The largest squared length of a row and the largest half squared distance of two, as good as exact."""
    queue = case.arguments()["queue"]
    rows = torch.cat([*case.embeddings(), *([] if queue is None else [queue])]).double()
    if case.l2_normalize:
        return 1.0, 2.0
    distances = torch.cdist(rows, rows, compute_mode="donot_use_mm_for_euclid_dist")
    return float(rows.square().sum(dim=1).max()), float(distances.max()) ** 2 / 2


def amplification(case: Case, length: float) -> float:
    """By how much the strategy may multiply a distance, and how many it may sum: with the options, a generous bound."""
    options = ["tau", "t", "c", "gamma", "eps", "a", "b", "alpha", "beta", "nu", "tau_alpha", "tau_beta"]
    numbers = [getattr(case.strategy, option, 1.0) for option in options]
    rows = case.samples * case.views + case.queue_rows
    weight = length if isinstance(case.strategy, (Circle, LiftedStructured)) else 1.0  # their α grow as D
    weight *= 1.0 if case.detach_alpha else length**0.5  # D times the slope of α in D times that of D in an entry
    return rows**2 * weight * math.prod(max(abs(x), 1 / abs(x)) for x in numbers if x)


@every_name
@both_forms
def test_finite_or_a_documented_error(name, form):
    """Loss, gradient and statistics are finite, but where the exact numbers are beyond the dtype.

    The gradient of half precision is that of float32, rounded: it may be beyond float16 where that is not.
    Distances beyond the dtype, which only unnormalised embeddings have, never give a finite loss: nothing is hidden.
    """

    @FORMS[form]
    @given(case=cases(drawn_strategies(name)))
    def check(case: Case):
        with record.case("finite, or a documented error", name):
            if case.negatives == "queue" and case.queue_rows == 0:
                with pytest.raises(ValueError, match=DOCUMENTED):
                    case.results()
                return
            computed = torch.promote_types(case.dtype, torch.float32)
            losses, gradients, stats = case.results()
            assert losses.dtype == computed
            room = torch.finfo(computed).max
            length, distance = sizes(case)
            if distance > 4 * room and case.negatives != "queue":
                assert not is_finite(losses)
                return
            exact, exact_gradients, _ = case.results(torch.float64)
            assert is_finite(exact, *exact_gradients)
            largest = max(length, *(float(t.abs().max()) for t in (exact, *exact_gradients)))
            if largest * amplification(case, length) < room:
                _, wide, _ = case.results(computed)
                assert is_finite(losses, *wide, *stats.values())
                for gradient, w in zip(gradients, wide, strict=True):
                    assert gradient.dtype == case.dtype
                    assert is_finite(gradient) or float(w.abs().max()) > torch.finfo(case.dtype).max / 2

    check()


@every_name
@both_forms
def test_a_batch_with_nan_or_inf_never_gives_a_finite_loss(name, form):
    """GradScaler and anomaly detection rely on it, and an exception in this place would end the training."""

    @FORMS[form]
    @given(case=cases(drawn_strategies(name)), bad=st.sampled_from([math.nan, math.inf, -math.inf]))
    def check(case: Case, bad: float):
        if case.negatives == "queue" and case.queue_rows == 0:
            return
        with record.case("NaN or inf in a batch shows in the loss", name):
            views = case.embeddings()
            views[0] = views[0].clone()
            views[0][0, 0] = bad
            losses = case.loss()(*views, **case.arguments())
            assert not is_finite(losses.mean())

    check()


@every_name
@both_forms
def test_permuting_the_batch_permutes_the_losses(name, form):
    @FORMS[form]
    @given(case=cases(moderate(name), benign=True, dtype=torch.float64, reduction="none"))
    def check(case: Case):
        with record.case("permuting the batch permutes the losses", name):
            order = torch.randperm(case.samples, generator=torch.Generator().manual_seed(case.seed))
            views, arguments = case.embeddings(), case.arguments()
            losses = case.loss()(*views, **arguments).reshape(-1, case.samples)
            if arguments["labels"] is not None:
                arguments["labels"] = arguments["labels"][order]
            if arguments["queue"] is not None:
                arguments["queue"] = arguments["queue"].flip(0)
            permuted = case.loss()(*[view[order] for view in views], **arguments).reshape(-1, case.samples)
            assert relative_error(permuted, losses[:, order]) < 1e-9

    check()


@every_name
@both_forms
def test_appending_excluded_columns_changes_nothing(name, form):
    @FORMS[form]
    @given(
        strategy=drawn_strategies(name),
        anchors=st.integers(1, 10),
        columns=st.integers(1, 30),
        more=st.integers(1, 30),
        zeros=st.booleans(),
        dtype=st.sampled_from([torch.float32, torch.float64]),
        seed=st.integers(0, 2**31),
    )
    def check(strategy, anchors, columns, more, zeros, dtype, seed):
        with record.case("appending excluded columns changes nothing", name):
            d2_pos, d2_neg = (d2.to(dtype) for d2 in random_distances(seed, anchors, columns))
            if zeros:
                d2_neg[:, ::2] = 0.0
            excluded = torch.full((anchors, more), math.inf, dtype=dtype)
            short, long = strategy(d2_pos, d2_neg), strategy(d2_pos, torch.cat([d2_neg, excluded], dim=1))
            assert (long.neg[:, columns:] == 0).all()
            scale = 1e4 * torch.finfo(dtype).eps
            assert relative_error(long.neg[:, :columns], short.neg) < scale
            for got, expected in ((long.pos, short.pos), (long.value, short.value)):
                assert (got is None) == (expected is None)
                assert got is None or relative_error(got, expected) < scale

    check()


@every_name
@both_forms
def test_lengths_do_not_matter_where_they_are_normalised(name, form):
    """To the last bit, as powers of two only change exponents, from near the smallest length up to the largest."""

    @FORMS[form]
    @given(case=cases(drawn_strategies(name), benign=True, dtype=torch.float32), exponent=st.integers(-30, 120))
    def check(case: Case, exponent: int):
        with record.case("lengths do not matter where they are normalised", name):
            unit = replace(case, l2_normalize=True)
            scaled = replace(unit, scale=2.0**exponent)
            assert torch.equal(scaled.results()[0], unit.results()[0])

    check()


def close(got: Tensor, exact: Tensor, unit: float) -> bool:
    """Within 0.1 % of the largest entry, or 1e-5 of the unit where all entries are small against it."""
    return float((got - exact).abs().max()) <= 1e-3 * float(exact.abs().max()) + 1e-5 * unit


@every_name
@both_forms
def test_float32_agrees_with_float64(name, form):
    """For random embeddings of ordinary length and options of ordinary size; value, statistics and gradient."""

    @FORMS[form]
    @given(case=cases(moderate(name), benign=True, dtype=torch.float32))
    def check(case: Case):
        with record.case("float32 agrees with float64", name):
            losses, gradients, stats = case.results()
            exact, exact_gradients, exact_stats = case.results(torch.float64)
            length, distance = sizes(case)
            assert close(losses, exact, distance)
            assert close(stats["d2_pos"], exact_stats["d2_pos"], distance)
            assert close(stats["d2_neg"], exact_stats["d2_neg"], distance)
            if name != "triplet":  # its weights jump from 0 to 1 at the margin
                assert close(torch.stack(gradients), torch.stack(exact_gradients), length**0.5)

    check()


@every_name
@pytest.mark.parametrize("pairs", [{"queue": FAR}, {"extra_negatives": FAR}, {"extra_negatives": FAR.expand(2, 1, 1)}])
def test_a_negative_beyond_the_dtype_is_not_taken_for_an_excluded_one(name, pairs):
    z = torch.full((2, 1), 0.5)
    assert not AlphaCLLoss(default_strategy(name), l2_normalize=False)(z, z, **pairs).isfinite()
