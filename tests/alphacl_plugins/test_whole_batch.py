"""Strategies that see the whole batch before they weigh a pair: its positives, or how sharp α is on it."""

import copy
import math
import re

import pytest
import torch
from oracles import half_squared, random_views, relative_error
from processes import run_in_processes
from torch import distributed as dist

from alphacl_plugins import AlphaCLLoss, build_strategy, energy, row_losses
from alphacl_plugins.strategies import MACL, Calibrated, DCLWeighted, Direct, Entropy, InfoNCE, Masked, Weighted


def refuses(error, text):
    return pytest.raises(error, match=re.escape(text))


LABELS = torch.tensor([0, 1, 0, 2, 1, 3])
OF_BATCH = [DCLWeighted(0.2, 0.7), MACL(0.2, 0.6, 0.3)]
of_batch = pytest.mark.parametrize("strategy", OF_BATCH, ids=repr)
ENGINES = {"auto": {}, "two blocks": {"block_size": 7}, "autograd": {"block_size": "autograd"}}
ENGINES |= {"ring": {"gather_distributed": "ring"}, "one tile": {"gather_distributed": "ring", "block_size": 100}}
every_engine = pytest.mark.parametrize("options", ENGINES.values(), ids=ENGINES)


def loops(strategy, views):
    """-E of the batch with α by the published formulas, a pair at a time, and the mean of the published values."""
    views = [[row / row.norm() for row in view] for view in views]
    cosines = [1 - half_squared(a, b).item() for a, b in zip(*views, strict=True)]
    total, value = 0.0, 0.0
    mean = sum(math.exp(c / 0.7) for c in cosines) / len(cosines)
    tau = 0.2 * (1 + 0.6 * (sum(cosines) / len(cosines) - 0.3)) if isinstance(strategy, MACL) else 0.2
    for own in (0, 1):
        for i, anchor in enumerate(views[own]):
            d = torch.stack([half_squared(anchor, row) for view in views for j, row in enumerate(view) if j != i])
            d_pos = half_squared(anchor, views[1 - own][i])
            alpha = torch.softmax(-d.detach() / tau, dim=0)
            pull = 1.0 if isinstance(strategy, MACL) else 2 - math.exp(cosines[i] / 0.7) / mean
            total = total + pull * d_pos - (alpha * d).sum()
            value = value + pull * d_pos + tau * torch.logsumexp(-d / tau, dim=0)
    anchors = 2 * len(cosines)
    return total / anchors, (total if isinstance(strategy, MACL) else value) / anchors


@of_batch
@every_engine
@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_weights_follow_the_positives_of_the_whole_batch(strategy, options, reduction):
    views = random_views(0, n=6, d=4)
    minus_energy, value = loops(strategy, views)
    got = AlphaCLLoss(strategy, reduction=reduction, **options)(*views).mean()
    assert got.item() == pytest.approx(value.item(), rel=1e-12)
    expected = torch.autograd.grad(minus_energy, views)
    for g, e in zip(torch.autograd.grad(got, views), expected, strict=True):
        assert relative_error(g, e) < 1e-12


@of_batch
def test_the_usual_scale_is_one_over_the_temperature_in_force(strategy):
    views = random_views(1, n=6, d=4)
    usual, paper = (AlphaCLLoss(strategy, scale=scale)(*views) for scale in ("ntxent", "paper"))
    tau = 0.2
    if isinstance(strategy, MACL):
        z, z_aug = (view / view.norm(dim=1, keepdim=True) for view in views)
        tau *= 1 + 0.6 * ((z * z_aug).sum(dim=1).mean().item() - 0.3)
    assert usual.item() == pytest.approx(paper.item() / tau, rel=1e-12)


@of_batch
def test_weights_and_statistics_are_those_of_the_call(strategy):
    views = random_views(2, n=6, d=4)
    criterion = AlphaCLLoss(strategy, reduction="none")
    weights = criterion.pair_weights(*views)
    losses = criterion(*views)
    entropy = -(weights.neg * weights.neg.clamp_min(1e-300).log()).sum(dim=1).mean()
    assert criterion.last_stats["alpha_entropy"].item() == pytest.approx(entropy.item(), rel=1e-12)
    assert relative_error(weights.value, losses) < 1e-12


@of_batch
def test_with_labels_the_mean_is_over_the_views_of_each_sample(strategy):
    views = [*random_views(3, n=6, d=4), random_views(4, n=6, d=4)[0]]
    unit = [view / view.norm(dim=1, keepdim=True) for view in views]
    d2 = torch.stack([(1 - (a * b).sum(dim=1)) for a in unit for b in unit if a is not b])
    fixed = strategy.on_batch(d2)
    assert not fixed.uses_batch
    got = AlphaCLLoss(strategy)(*views, labels=LABELS)
    assert got.item() == pytest.approx(AlphaCLLoss(fixed)(*views, labels=LABELS).item(), rel=1e-12)
    with refuses(
        ValueError, f"z_aug: expected another view with {strategy!r}, which needs a mean over views, got None"
    ):
        AlphaCLLoss(strategy)(views[0], labels=LABELS)


@of_batch
def test_without_a_loss_the_rows_are_the_batch(strategy):
    z, z_aug = (view.detach() / view.detach().norm(dim=1, keepdim=True) for view in random_views(5, n=6, d=4))
    d_pos = 1 - (z * z_aug).sum(dim=1)
    others = [torch.arange(6) != i for i in range(6)]
    d_neg = 1 - torch.stack([torch.cat([z[i] @ z[o].T, z[i] @ z_aug[o].T]) for i, o in enumerate(others)])
    expected = AlphaCLLoss(strategy, symmetric=False, reduction="none")(z, z_aug)
    assert relative_error(row_losses(strategy, d_pos[:, None], d_neg), expected) < 1e-12
    assert relative_error(strategy(d_pos, d_neg).neg, strategy.on_batch(d_pos)(d_pos, d_neg).neg) == 0
    alpha = strategy.on_batch(d_pos)(d_pos, (1 - z @ z.T).fill_diagonal_(math.inf)).neg
    assert energy(z, z_aug, strategy).item() == pytest.approx(energy(z, z_aug, alpha).item(), rel=1e-12)
    with refuses(ValueError, "share: expected None with"):
        row_losses(strategy, d_pos[:, None], d_neg, share=torch.ones(6, 1))


@of_batch
def test_inside_a_mask_and_as_a_part_it_sees_the_batch(strategy):
    views = random_views(6, n=6, d=4)
    masked = AlphaCLLoss(Masked(strategy, margin=10.0))(*views)
    assert masked.item() == pytest.approx(AlphaCLLoss(strategy)(*views).item(), rel=1e-12)
    part = AlphaCLLoss(Weighted(strategy, Entropy(1.0)), reduction="none").pair_weights(*views)
    assert relative_error(part.neg, AlphaCLLoss(strategy).pair_weights(*views).neg) < 1e-12


def test_a_users_own_strategy_can_see_the_batch():
    class Sharper:
        """Uniform weights of a sum that the batch decides."""

        uses_batch = True

        def on_batch(self, d2_pos, weight):
            assert d2_pos.shape == (12, 1)
            assert weight is None
            mean = d2_pos.mean()
            return lambda d_pos, d_neg: Entropy(1.0)(d_pos, d_neg)._replace(neg=mean * torch.ones_like(d_neg))

        def __call__(self, d2_pos, d2_neg):
            raise AssertionError

    views = random_views(7, n=6, d=4)
    weights = AlphaCLLoss(Sharper()).pair_weights(*views).neg
    unit = [view / view.norm(dim=1, keepdim=True) for view in views]
    mean = 1 - (unit[0] * unit[1]).sum(dim=1).mean().item()
    assert set(weights.flatten().round(decimals=12).tolist()) == {0.0, round(mean, 12)}


def in_two_processes(rank, world):
    views = [view.detach() for view in random_views(8, n=6, d=4)]
    mine = slice(3 * rank, 3 * rank + 3)
    for strategy in OF_BATCH:
        expected = AlphaCLLoss(strategy)(*views)
        for gather in (True, "ring"):
            value = AlphaCLLoss(strategy, gather_distributed=gather)(*(view[mine] for view in views))
            dist.all_reduce(value)
            assert value.item() / world == pytest.approx(expected.item(), rel=1e-9)
    for gather in (True, "ring", False):
        criterion = AlphaCLLoss("direct", effective_share=0.4, gather_distributed=gather)
        criterion(*(view[mine] for view in views))
        entropy = criterion.last_stats["alpha_entropy"].clone()
        dist.all_reduce(entropy)
        share = (entropy / world).exp() / criterion.last_stats["negatives"]
        assert share.item() == pytest.approx(0.4, rel=1e-5)
        taus = [torch.zeros(()) for _ in range(world)]
        dist.all_gather(taus, criterion.strategy.tau)
        assert taus[0] == taus[1]


def test_two_processes_share_the_batch(tmp_path):
    run_in_processes(2, tmp_path, in_two_processes)


FACTOR, DO_NOT = ["direct", "infonce", "entropy", "macl", "adnce"], ["square", "inverse_exact", "tsallis"]
SOME = [(name, engine) for name in FACTOR for engine in ENGINES] + [(name, "auto") for name in DO_NOT]


@pytest.mark.parametrize(("name", "engine"), SOME)
def test_the_first_training_batch_decides_the_temperature(name, engine):
    criterion = AlphaCLLoss(name, effective_share=0.3, **ENGINES[engine])
    first, second = random_views(9, n=10, d=4), random_views(10, n=10, d=8)
    criterion(*first)
    stats, tau = criterion.last_stats, criterion.strategy.tau.item()
    assert stats["negatives"] == 18
    assert stats["effective_negatives"].item() / 18 == pytest.approx(0.3, rel=1e-4)
    assert stats["tau"].item() == pytest.approx(tau)
    plain = AlphaCLLoss(build_strategy(name, tau=tau))
    assert criterion(*second).item() == pytest.approx(plain(*second).item(), rel=1e-6)
    assert criterion.strategy.tau.item() == tau


def test_the_temperature_is_saved_and_found_once_only():
    criterion, other = (AlphaCLLoss("infonce", effective_share=share) for share in (0.2, 0.6))
    views = random_views(11, n=10, d=4)
    empty = copy.deepcopy(other.state_dict())
    criterion(*views)
    other.load_state_dict(criterion.state_dict())
    assert other(*views).item() == criterion(*views).item()
    assert copy.deepcopy(criterion).bfloat16().strategy.tau == criterion.strategy.tau
    other.load_state_dict(empty)
    assert not other.strategy.is_calibrated


def test_before_training_each_batch_finds_a_temperature_and_leaves_no_trace():
    criterion = AlphaCLLoss("infonce", effective_share=0.5)
    batches = [random_views(seed, n=10, d=4) for seed in (12, 13)]
    criterion.eval()
    taus = []
    for views in batches:
        criterion(*views)
        assert criterion.last_stats["effective_negatives"].item() / 18 == pytest.approx(0.5, rel=1e-4)
        taus.append(criterion.last_stats["tau"].item())
    assert taus[0] != taus[1]
    criterion.train()
    with torch.no_grad():
        criterion(*batches[0])
    weights = criterion.pair_weights(*batches[0]).neg
    assert not criterion.strategy.is_calibrated
    expected = AlphaCLLoss(InfoNCE(taus[0])).pair_weights(*batches[0]).neg
    assert relative_error(weights, expected) < 1e-5


def test_with_a_mask_the_share_is_of_all_negatives():
    views = random_views(14, n=12, d=4)
    criterion = AlphaCLLoss("direct", effective_share=0.3, masked=-0.05)
    criterion(*views)
    assert criterion.last_stats["effective_negatives"].item() / 22 == pytest.approx(0.3, rel=1e-4)


def test_a_share_that_cannot_be_is_an_error():
    views = random_views(15, n=6, d=4)
    for share in (0.0, 1.0, -0.1, math.nan):
        with refuses(ValueError, "effective_share: expected a"):
            AlphaCLLoss("infonce", effective_share=share)
    for name, kind, share in (("hardness", "Hardness", 0.9), ("infonce", "InfoNCE", 0.01)):  # of ten at least 0.1
        with refuses(ValueError, f"effective_share: expected a share that {kind} can have on this batch, got {share}"):
            AlphaCLLoss(name, effective_share=share)(*views)
    with refuses(ValueError, "effective_share: expected None with tau, whose place it takes, got 0.5"):
        AlphaCLLoss("infonce", effective_share=0.5, tau=0.1)
    with refuses(ValueError, "effective_share: expected None with learnable_tau"):
        AlphaCLLoss("infonce", effective_share=0.5, learnable_tau=True)
    with refuses(ValueError, "effective_share: expected None with KLBall(rho=0.3, bounds=(0.05, 0.7)), which has no"):
        AlphaCLLoss("kl_ball", effective_share=0.5)


def test_without_a_loss_there_is_no_batch_to_calibrate_on():
    strategy = Calibrated(Direct(), 0.5)
    z, z_aug = random_views(16, n=6, d=4)
    for call in (
        lambda: strategy(torch.ones(2), torch.ones(2, 3)),
        lambda: energy(z, z_aug, strategy),
        lambda: row_losses(strategy, torch.ones(2, 1), torch.ones(2, 3)),
    ):
        with refuses(ValueError, "effective_share: expected a strategy that a loss has seen a training batch"):
            call()
    AlphaCLLoss(strategy)(z, z_aug)
    assert torch.isfinite(energy(z, z_aug, strategy))


def test_compiled_it_finds_the_same_temperature():
    views = [view.detach() for view in random_views(17, n=6, d=4)]
    plain, compiled = (AlphaCLLoss("direct", effective_share=0.5) for _ in range(2))
    expected = plain(*views)
    assert torch.compile(compiled, backend="eager")(*views).item() == expected.item()
    assert compiled.strategy.tau == plain.strategy.tau
    assert torch.compile(compiled, backend="eager", fullgraph=True)(*views).item() == expected.item()


@pytest.mark.parametrize("strategy", [*OF_BATCH, "effective_share"], ids=str)
@every_engine
def test_padding_is_not_seen(strategy, options):
    """Rows of weight and count 0, as `docs/pairs.md` shows them."""
    views = [view.detach() for view in random_views(18, n=6, d=4)]
    valid = torch.tensor([1.0, 1, 1, 1, 0, 0], dtype=torch.float64)
    given = {"strategy": strategy} if strategy in OF_BATCH else {"strategy": "infonce", "effective_share": 0.4}
    padded, alone = (AlphaCLLoss(**given, **options) for _ in range(2))
    got = padded(*views, sample_weight=valid, count=valid)
    expected = alone(*(view[:4] for view in views))
    assert got.item() == pytest.approx(expected.item(), rel=1e-6)
    for name, value in alone.last_stats.items():
        assert padded.last_stats[name].item() == pytest.approx(value.item(), rel=1e-6), name


def test_a_batch_too_small_for_the_share_is_evaluated_at_the_nearest_temperature():
    criterion = AlphaCLLoss("infonce", effective_share=0.01).eval()
    assert criterion(*random_views(19, n=5, d=4)).isfinite()
    assert criterion.last_stats["effective_negatives"].item() == pytest.approx(1.0, abs=0.1)
    assert not criterion.strategy.is_calibrated


def test_a_transform_does_not_keep_what_it_finds():
    criterion = AlphaCLLoss("infonce", effective_share=0.5)
    z, z_aug = (view.detach() for view in random_views(20, n=6, d=4))
    found = torch.func.grad(lambda x: criterion(x, z_aug))(z)
    assert not criterion.strategy.is_calibrated
    criterion(z, z_aug)
    assert relative_error(found, torch.func.grad(lambda x: criterion(x, z_aug))(z)) < 1e-5


def test_what_is_loaded_or_set_is_in_force_at_once():
    other = AlphaCLLoss("infonce", effective_share=0.5)
    other(*random_views(21, n=8, d=4))
    criterion = AlphaCLLoss("infonce", effective_share=0.3)
    criterion.eval()(*random_views(22, n=8, d=4))
    criterion.load_state_dict(other.state_dict())
    assert criterion.strategy.in_force["tau"] == criterion.strategy.tau == other.strategy.tau
    with refuses(TypeError, "strategy: expected one with a temperature, a field tau as InfoNCE has, got Masked"):
        Calibrated(Masked(InfoNCE()), 0.5)


def test_where_all_negatives_are_masked_none_is_effective():
    views = random_views(23, n=6, d=4)
    for options in ({}, {"block_size": "autograd"}):
        criterion = AlphaCLLoss("infonce", masked=-5.0, **options)
        criterion(*views)
        assert criterion.last_stats["effective_negatives"] == 0
