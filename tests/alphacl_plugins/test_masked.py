"""Masked: against rows from which the masked negatives are taken out."""

import copy
import math

import pytest
import torch
from oracles import is_finite, random_distances, random_views, relative_error, strategy_id

import alphacl_lightly
from alphacl_plugins import AlphaCLLoss, PairWeights, build_strategy, row_losses
from alphacl_plugins.strategies import (
    KCL,
    Direct,
    Entropy,
    InfoNCE,
    KLBall,
    LearnableTemperature,
    Masked,
    Square,
    Triplet,
    Tsallis,
)
from alphacl_plugins.strategies.guarded import plain


def users_own(d2_pos, d2_neg):
    """A function that writes into its arguments."""
    return PairWeights(d2_neg.neg_().div_(0.3).softmax(dim=1))


STRATEGIES = [InfoNCE(), Entropy(), Direct(), Square(), Tsallis(), KLBall(), KCL(), Triplet(), users_own]
every_strategy = pytest.mark.parametrize("strategy", STRATEGIES, ids=strategy_id)


def complete(weights):
    """Weights, positive weights and values as a list of tensors."""
    return [weights.neg, weights.neg.sum(dim=1) if weights.pos is None else weights.pos] + (
        [] if weights.value is None else [weights.value]
    )


@every_strategy
@pytest.mark.parametrize("margin", [0.1, 0.0, -0.2])
def test_it_is_the_strategy_on_the_negatives_that_are_left(strategy, margin):
    d2_pos, d2_neg = random_distances(0, anchors=6, candidates=9)
    d2_neg[0, 3] = math.inf
    got = complete(plain(Masked(strategy, margin))(d2_pos, d2_neg))
    assert int((got[0] == 0).any(dim=1).sum()) > 3
    for i in range(6):
        left = (d2_neg[i] >= d2_pos[i] - margin) & (d2_neg[i] < math.inf)
        assert (got[0][i, ~left] == 0).all()
        if not left.any():
            continue
        expected = complete(plain(strategy)(d2_pos[i : i + 1], d2_neg[i : i + 1, left]))
        assert relative_error(got[0][i, left], expected[0][0]) < 1e-12
        for part, wanted in zip(got[1:], expected[1:], strict=True):
            assert relative_error(part[i], wanted[0]) < 1e-12


@every_strategy
def test_a_row_that_is_masked_whole_counts_nothing(strategy):
    d2_pos, d2_neg = random_distances(0, anchors=4, candidates=6)
    d2_pos[1], d2_neg[3] = 9.0, math.inf
    d2_neg.requires_grad_()
    got = complete(plain(Masked(strategy))(d2_pos, d2_neg))
    assert is_finite(*got)
    assert all((part[[1, 3]] == 0).all() for part in got)
    (slope,) = torch.autograd.grad(got[0].square().sum(), d2_neg)
    assert is_finite(slope)
    assert (slope[[1, 3]] == 0).all()


def test_quantiles_keep_a_ring():
    d2_neg = torch.arange(10.0, dtype=torch.float64)[torch.randperm(10, generator=torch.Generator().manual_seed(0))]
    row = torch.zeros(1, dtype=torch.float64), torch.cat([d2_neg, torch.tensor([math.inf])])[None]
    for lowest, highest, kept in ((0, 1, range(10)), (0.2, 0.5, range(2, 5)), (0.15, 0.45, range(1, 5)), (0, 0.1, [0])):
        weights = Masked(Direct(), None, lowest=lowest, highest=highest)(*row).neg[0]
        assert sorted(row[1][0, weights > 0].tolist()) == list(kept)


def test_ties_stay_together():
    row = torch.zeros(1), torch.tensor([[1.0, 1.0, 1.0, 2.0, 3.0]])
    assert (Masked(Entropy(), None, lowest=0.4)(*row).neg > 0).all()
    assert (Masked(Entropy(), None, lowest=0.6)(*row).neg > 0).tolist() == [[False, False, False, True, True]]


@pytest.mark.parametrize("strategy", [InfoNCE(), Square(), KLBall()], ids=strategy_id)
@pytest.mark.parametrize("options", [{"margin": 0.1}, {"margin": None, "lowest": 0.2, "highest": 0.8}], ids=str)
def test_counts_are_copies(strategy, options):
    d2_pos, d2_neg = random_distances(0, anchors=5, candidates=4)
    times = torch.tensor([1, 3, 2, 4])
    masked = plain(Masked(strategy, **options))
    counted = complete(masked(d2_pos, d2_neg, times.double().expand(5, 4)))
    copied = complete(masked(d2_pos, d2_neg.repeat_interleave(times, dim=1)))
    copied[0] = torch.stack([part.sum(dim=1) for part in copied[0].split(times.tolist(), dim=1)], dim=1)
    assert (counted[0] == 0).any()
    assert all(relative_error(got, wanted) < 1e-12 for got, wanted in zip(counted, copied, strict=True))


def test_columns_that_count_0_times_are_no_negatives():
    d2_pos, d2_neg = random_distances(0, anchors=2, candidates=5)
    count = torch.ones_like(d2_neg)
    count[0, 1:3], count[1] = 0, 0
    got = complete(plain(Masked(Entropy(), None, highest=0.5))(d2_pos, d2_neg, count))
    expected = plain(Masked(Entropy(), None, highest=0.5))(d2_pos[:1], d2_neg[:1, [0, 3, 4]])
    assert relative_error(got[0][0, [0, 3, 4]], expected.neg[0]) < 1e-12
    assert is_finite(*got)
    assert all((part[1] == 0).all() for part in got)


@pytest.mark.parametrize("labels", [None, torch.tensor([0, 0, 1, 1, 2, 3])], ids=["views", "classes"])
@pytest.mark.parametrize("block_size", ["autograd", "auto", 3])
@pytest.mark.parametrize("strategy", [InfoNCE(), Square(), users_own], ids=strategy_id)
def test_every_engine_computes_the_loss_of_loops(strategy, block_size, labels):
    z, z_aug = random_views(0, 6, 3)
    classes = torch.arange(6) if labels is None else labels
    rows = torch.nn.functional.normalize(torch.cat([z, z_aug]), dim=1)
    classes, total = classes.repeat(2), 0.0
    d2 = 1 - rows @ rows.T
    for i in range(12):
        positives = [p for p in range(12) if p != i and classes[p] == classes[i]]
        for p in positives:
            left = (classes != classes[i]) & (d2[i] >= d2[i, p] - 0.05)
            if not left.any():
                continue
            neg, pos, _ = plain(strategy)(d2[i, p].detach()[None], d2[i, left].detach()[None])
            pull = neg.sum() if pos is None else pos[0]
            total += (pull * d2[i, p] - (neg[0] * d2[i, left]).sum()) / len(positives) / 12
    expected = torch.autograd.grad(total, (z, z_aug))
    loss = AlphaCLLoss(Masked(strategy, 0.05), block_size=block_size)(z, z_aug, labels=labels)
    for got, wanted in zip(torch.autograd.grad(loss, (z, z_aug)), expected, strict=True):
        assert relative_error(got, wanted) < 1e-11


def test_the_mask_goes_around_a_learnable_temperature():
    z, z_aug = random_views(0, 8, 3)
    learns = AlphaCLLoss("infonce", tau=0.2, learnable_tau=True, masked=0.05)
    assert isinstance(learns.strategy, Masked)
    assert isinstance(learns.strategy.strategy, LearnableTemperature)
    fixed = AlphaCLLoss(Masked(InfoNCE(tau=0.2), 0.05))
    assert learns(z, z_aug).item() == pytest.approx(fixed(z, z_aug).item(), rel=1e-6)
    learns(z, z_aug).backward()
    energy = AlphaCLLoss(Masked(lambda *row: InfoNCE(tau=0.2)(*row)._replace(value=None), 0.05))(z, z_aug)
    assert float(learns.strategy.strategy.log_tau.grad) == pytest.approx(-energy.item() / 0.2, rel=1e-5)
    assert float(learns.last_stats["tau"]) == pytest.approx(0.2)
    assert float(learns.last_stats["effective_negatives"]) == pytest.approx(
        float(fixed.last_stats["effective_negatives"]), rel=1e-5
    )
    other = copy.deepcopy(learns)
    other.strategy.strategy.tau = 0.4
    learns.load_state_dict(other.state_dict())
    assert float(learns.strategy.strategy.tau) == pytest.approx(0.4)


def test_losses_of_rows_learn_too():
    d2_pos, d2_neg = random_distances(0, anchors=4, candidates=6)
    strategy = Masked(LearnableTemperature(InfoNCE(tau=0.2)))
    row_losses(strategy, d2_pos[:, None], d2_neg).sum().backward()
    neg, pos, _ = plain(Masked(InfoNCE(tau=0.2)))(d2_pos, d2_neg)
    expected = ((neg * d2_neg).sum() - (pos * d2_pos).sum()) / 0.2
    assert float(strategy.strategy.log_tau.grad) == pytest.approx(float(expected), rel=1e-5)


@pytest.mark.parametrize("loss", [AlphaCLLoss, alphacl_lightly.AlphaCLLoss])
def test_the_flat_option(loss):
    masked = loss("direct", masked=0.2).strategy
    assert repr(masked) == "Masked(Direct(tau=0.5, p=4.0, normalize=True), margin=0.2)"
    assert repr(loss("direct", masked=0).strategy) == "Masked(Direct(tau=0.5, p=4.0, normalize=True), margin=0)"
    for none in (None, False):
        assert loss("direct", masked=none).strategy == Direct()


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: build_strategy("direct", masked=True), TypeError, r"masked: expected a finite number, got True"),
        (lambda: build_strategy("direct", masked="0.1"), TypeError, r"masked: expected a finite number, got '0.1'"),
        (lambda: Masked("direct"), TypeError, r"strategy: expected a strategy object, got 'direct'"),
        (lambda: Masked(Direct), TypeError, r"strategy: expected a strategy object, got <class"),
        (lambda: Masked(Direct(), math.nan), ValueError, r"margin: expected a finite number, got nan"),
        (lambda: Masked(Direct(), lowest=0.5, highest=0.5), ValueError, r"lowest, highest: .* got 0.5, 0.5"),
        (lambda: Masked(Direct(), highest=1.5), ValueError, r"expected 0 <= lowest < highest <= 1, got 0.0, 1.5"),
        (
            lambda: AlphaCLLoss("infonce", masked=0.1, gather_distributed="ring"),
            ValueError,
            r"gather_distributed: expected True or False with a strategy that needs all negatives .* Masked\(InfoNCE",
        ),
        (
            lambda: AlphaCLLoss("infonce", masked=0.1, block_size="kernel"),
            ValueError,
            r'block_size: expected "auto", an int >= 1 or "autograd" with Masked\(InfoNCE\(.*got "kernel"',
        ),
    ],
)  # fmt: skip
def test_errors_say_what_was_expected(call, error, message):
    with pytest.raises(error, match=message):
        call()


@pytest.mark.parametrize("strategy", [Masked(Entropy(), lowest=0.1), Masked(LearnableTemperature(Entropy(0.5)))])
def test_it_compiles_without_graph_breaks(strategy):
    if isinstance(strategy.strategy, LearnableTemperature):
        strategy.strategy.tau = 0.1  # another than it was built with
    row = random_distances(0, anchors=4, candidates=6)

    def weights(*row):
        return plain(strategy)(*row).neg

    compiled = torch.compile(weights, fullgraph=True, backend="aot_eager")
    assert relative_error(compiled(*row), weights(*row)) < 1e-12


def test_it_runs_without_reading_a_value():
    row = (d.to("meta") for d in random_distances(0, anchors=5, candidates=7))
    assert plain(Masked(Square(), lowest=0.1))(*row).neg.shape == (5, 7)


def test_quantiles_are_a_flat_option_too():
    z, z_aug = torch.randn(2, 12, 4, generator=torch.Generator().manual_seed(0))
    expected = AlphaCLLoss(Masked(InfoNCE(0.1), None, lowest=0.1, highest=0.9))(z, z_aug)
    for build in (AlphaCLLoss, alphacl_lightly.AlphaCLLoss):
        assert build("infonce", tau=0.1, masked=[None, 0.1, 0.9])(z, z_aug) == expected
    with pytest.raises(ValueError, match=r"masked: expected a margin or \(margin, lowest, highest\), got \[0.1, 0.2\]"):
        AlphaCLLoss("infonce", masked=[0.1, 0.2])


def test_a_positive_that_is_infinitely_far_is_not_hidden_by_the_mask():
    """All negatives are nearer than it, so all are masked; the loss of an anchor without negatives is 0."""
    z, z_aug = torch.tensor([[-math.inf], [1.0]]), torch.tensor([[0.5], [0.25]])
    loss = AlphaCLLoss("infonce", masked=0.1, l2_normalize=False, reduction="none", negatives="cross")
    assert loss(z, z_aug).isnan().tolist() == [True, False, True, False]
