"""The loss module as one meets it: its options, its edges, its errors. Its numbers are those of test_engines.py."""

import copy
import itertools
import pickle
import shutil

import pytest
import torch
from batches import NEGATIVES, random_queue
from oracles import in_a_batch, is_finite, random_views, relative_error
from selection import slow_but

from alphacl_plugins import (
    AlphaCLLoss,
    EmbeddingQueue,
    PairWeights,
    build_strategy,
    metrics,
    strategies,
    strategy_names,
)

every_name = pytest.mark.parametrize("name", strategy_names())


@every_name
@pytest.mark.parametrize("seed", range(2))
def test_gradient_through_alpha_is_that_of_the_value(name, seed):
    views = random_views(seed, n=4, d=3)
    strategy = strategies.Triplet(0.3) if name == "triplet" else in_a_batch(build_strategy(name))
    for negatives in ("both", "same"):
        loss = AlphaCLLoss(strategy, negatives=negatives, detach_alpha=False)
        assert torch.autograd.gradcheck(loss, views, atol=1e-7)


def test_holding_alpha_fixed_is_not_the_gradient_through_it():
    views = random_views(0, n=4, d=3)
    fixed, through = (
        torch.autograd.grad(AlphaCLLoss("entropy", detach_alpha=detach)(*views), views) for detach in (True, False)
    )
    assert relative_error(fixed[0], through[0]) > 0.01


@every_name
def test_gradcheck_with_alpha_frozen_at_the_point(name):
    """With the weights of the point as a constant strategy, value and gradient are one function."""
    views = random_views(2, n=4, d=3)
    frozen = AlphaCLLoss(name).pair_weights(*views)

    turn = itertools.count()

    def constant(d2_pos, d2_neg):  # asked for the anchors of one view after another, or of all at once
        m = len(d2_pos)
        rows = slice(next(turn) * m % len(frozen.neg), None)
        return PairWeights(frozen.neg[rows][:m], frozen.pos[rows][:m])

    options = {"negatives": AlphaCLLoss(name).negatives}
    assert torch.autograd.gradcheck(AlphaCLLoss(constant, **options), views)
    at_point = [torch.autograd.grad(AlphaCLLoss(s, **options)(*views), views) for s in (constant, name)]
    assert relative_error(at_point[0][0], at_point[1][0]) < 1e-12


def test_pair_weights_are_laid_out_as_documented():
    z, z_aug = (t.detach() for t in random_views(4, n=3, d=4))
    queue = random_queue(2, 4)
    for negatives, columns in (("both", 6), ("same", 3), ("cross", 3)):
        weights = AlphaCLLoss("direct", negatives=negatives).pair_weights(z, z_aug, queue=queue)
        assert weights.neg.shape == (6, columns + 2)
        own_sample = torch.eye(3, dtype=torch.bool).repeat(2, columns // 3)
        assert (weights.neg[:, :columns][own_sample] == 0).all()
        assert (weights.neg[:, :columns][~own_sample] > 0).all()
        assert (weights.neg[:, columns:] > 0).all()
        torch.testing.assert_close(weights.pos, torch.ones(6, dtype=torch.float64))
        per_anchor = AlphaCLLoss("direct", negatives=negatives, reduction="none")(z, z_aug, queue=queue)
        torch.testing.assert_close(weights.value, per_anchor)
        assert not weights.neg.requires_grad


def test_dhel_and_kcl_declare_what_they_are_meant_for():
    assert AlphaCLLoss("dhel").negatives == AlphaCLLoss("kcl").negatives == "same"
    assert AlphaCLLoss(strategies.DHEL(include_augs=False)).symmetric is False
    assert AlphaCLLoss(strategies.DHEL(include_augs=False), symmetric=True, negatives="both").symmetric is True
    assert (AlphaCLLoss("direct").negatives, AlphaCLLoss("direct").symmetric) == ("both", True)


def test_dhel_is_entropy_in_the_own_view_with_half_the_positive():
    views = random_views(5, n=5, d=3)

    def half_positive(d2_pos, d2_neg):
        return PairWeights(strategies.Entropy(0.3)(d2_pos, d2_neg).neg, pos=torch.full_like(d2_pos, 0.5))

    by_hand = torch.autograd.grad(AlphaCLLoss(half_positive, negatives="same")(*views), views)
    for got, expected in zip(torch.autograd.grad(AlphaCLLoss("dhel")(*views), views), by_hand, strict=True):
        assert relative_error(got, expected) < 1e-13


def test_last_stats():
    z, z_aug = (t.detach() for t in random_views(6, n=4, d=3))
    loss = AlphaCLLoss("direct")
    assert loss.last_stats == {}
    loss(z.requires_grad_(), z_aug)
    unit, unit_aug = (torch.nn.functional.normalize(t.detach()) for t in (z, z_aug))
    every = torch.cat([unit, unit_aug])
    others = ~torch.eye(4, dtype=torch.bool).repeat(2, 2)
    assert loss.last_stats["d2_pos"].item() == pytest.approx(metrics.alignment(unit, unit_aug).item() / 2)
    assert loss.last_stats["d2_neg"].item() == pytest.approx((1 - every @ every.T)[others].mean().item())
    entropy = metrics.alpha_entropy(loss.pair_weights(z, z_aug).neg)
    assert loss.last_stats["alpha_entropy"].item() == pytest.approx(entropy.item())
    assert loss.last_stats["effective_negatives"].item() == pytest.approx(entropy.exp().item())
    assert not any(stat.requires_grad for stat in loss.last_stats.values())


DEGENERATE = {
    "all equal": lambda z: torch.ones_like(z),
    "all zero": lambda z: torch.zeros_like(z),
    "a zero row": lambda z: torch.cat([torch.zeros_like(z[:1]), z[1:]]),
    "duplicates": lambda z: z[:1].repeat(len(z), 1),
    "one-hot": lambda z: torch.eye(len(z), z.shape[1], dtype=z.dtype),
    "opposite": lambda z: torch.cat([z[: len(z) // 2], -z[: len(z) // 2]]),
    "huge": lambda z: z * 1e4,
    "tiny": lambda z: z * 1e-4,
}


@every_name
@pytest.mark.parametrize("kind", DEGENERATE)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_degenerate_embeddings_give_finite_loss_and_gradient(name, kind, dtype):
    z = random_views(7, n=6, d=8)[0].detach().to(dtype)
    z = DEGENERATE[kind](z).requires_grad_()
    z_aug = z.detach().clone().requires_grad_()
    loss = AlphaCLLoss(name)(z, z_aug)
    loss.backward()
    assert is_finite(loss, z.grad, z_aug.grad)
    assert loss.dtype == torch.promote_types(dtype, torch.float32)
    assert z.grad.dtype == dtype


@pytest.mark.parametrize("tau", [1e-3, 1e3])
@pytest.mark.parametrize("name", ["infonce", "entropy", "inverse", "square", "direct", "dhel", "soft_triplet"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_extreme_temperatures_give_finite_loss_and_gradient(name, tau, dtype):
    z, z_aug = random_views(8, n=16, d=8, dtype=dtype)
    for detach_alpha in (True, False):
        loss = AlphaCLLoss(build_strategy(name, tau=tau), detach_alpha=detach_alpha)(z, z_aug)
        assert is_finite(loss, *torch.autograd.grad(loss, (z, z_aug)))


@every_name
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_autocast_changes_nothing(name, dtype):
    z, z_aug = random_views(9, n=8, d=16, dtype=dtype)
    plain = AlphaCLLoss(name)(z, z_aug)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        autocast = AlphaCLLoss(name)(z, z_aug)
    assert autocast.dtype == torch.float32
    torch.testing.assert_close(autocast, plain, rtol=1e-5, atol=1e-6)


@every_name
def test_two_samples_are_enough(name):
    z, z_aug = random_views(10, n=2, d=3)
    for negatives in ("both", "same", "cross"):
        loss = AlphaCLLoss(name, negatives=negatives)(z, z_aug)
        assert is_finite(loss, *torch.autograd.grad(loss, (z, z_aug)))


@every_name
@pytest.mark.parametrize("negatives", NEGATIVES)
def test_a_queue_makes_one_sample_enough_and_gets_no_gradient(name, negatives):
    z, z_aug = random_views(11, n=1, d=3)
    queue = random_queue().requires_grad_()
    loss = AlphaCLLoss(name, negatives=negatives)(z, z_aug, queue=queue)
    loss.backward()
    assert is_finite(loss, z.grad)
    assert queue.grad is None


@pytest.mark.parametrize(
    ("answer", "error", "message"),
    [
        (lambda p, n: n, TypeError, r"strategy: expected one that returns PairWeights, got one that returns Tensor"),
        (lambda p, n: (n, p), TypeError, r"strategy: expected one that returns PairWeights, got one .* 2 values"),
        (lambda p, n: PairWeights(n[:, :1]), ValueError, r"strategy: expected PairWeights.neg \(6, 6\), got \(6, 1\)"),
        (lambda p, n: PairWeights(n, p[:, None]), ValueError, r"expected PairWeights.pos \(6,\), got \(6, 1\)"),
        (lambda p, n: PairWeights(n, p, p.mean()), ValueError, r"expected PairWeights.value \(6,\), got \(\)"),
    ],
)
def test_a_users_strategy_with_wrong_shapes_is_refused(answer, error, message):
    with pytest.raises(error, match=message):
        AlphaCLLoss(answer)(*random_views(16, n=3, d=3))


@pytest.mark.parametrize(
    "name", slow_but(["direct", "infonce", "inverse", "kcl", "square", "triplet"], strategy_names())
)
def test_compiled_without_graph_breaks_it_gives_the_same_gradient(name):
    torch._dynamo.reset()
    views = random_views(13, n=8, d=16)
    loss = AlphaCLLoss(name)
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    for got, expected in zip(
        torch.autograd.grad(compiled(*views), views), torch.autograd.grad(loss(*views), views), strict=True
    ):
        assert relative_error(got, expected) < 1e-12


@pytest.mark.skipif(shutil.which("cc") is None, reason="inductor needs a C compiler")
@pytest.mark.parametrize("name", slow_but(["infonce"], ["infonce", "direct", "square"]))
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # raised inside torch's own code generation
def test_compiled_by_inductor_it_gives_the_same_gradient(name):
    torch._dynamo.reset()
    views = random_views(13, n=8, d=16)
    compiled = torch.compile(AlphaCLLoss(name), fullgraph=True)
    expected = torch.autograd.grad(AlphaCLLoss(name)(*views), views)
    for got, e in zip(torch.autograd.grad(compiled(*views), views), expected, strict=True):
        assert relative_error(got, e) < 1e-12


def test_it_pickles_and_copies():
    views = random_views(14, n=4, d=3)
    loss = AlphaCLLoss(strategies.InfoNCE(tau=0.1), negatives="cross", symmetric=False)
    expected = loss(*views).item()
    for clone in (pickle.loads(pickle.dumps(loss)), copy.deepcopy(loss)):
        assert repr(clone) == repr(loss)
        assert clone(*views).item() == expected
    assert loss.state_dict() == {}


def test_repr_shows_every_option():
    assert repr(AlphaCLLoss("infonce", gather_distributed=True)) == (
        "AlphaCLLoss(strategy=InfoNCE(tau=0.5, eps=1.0), negatives='both', symmetric=True, l2_normalize=True, "
        "detach_alpha=True, reduction='mean', block_size='auto', gather_distributed=True, positives='all', "
        "positives_as_negatives=False, ignore_label=None, scale='paper')"
    )


class Scaled(torch.nn.Module):
    """A strategy with a parameter: direct weights on scaled distances, no loss of its own."""

    def __init__(self):
        super().__init__()
        self.log_tau = torch.nn.Parameter(torch.zeros(()))

    def forward(self, d2_pos, d2_neg):
        return strategies.Direct()(d2_pos, d2_neg / self.log_tau.exp())


def test_a_strategy_may_be_a_module():
    loss = AlphaCLLoss(Scaled())
    assert [name for name, _ in loss.named_parameters()] == ["strategy.log_tau"]
    views = random_views(15, n=4, d=3)
    assert loss(*views).item() == pytest.approx(AlphaCLLoss("direct")(*views).item(), rel=1e-6)
    assert "strategy): Scaled()" in repr(loss)


def test_no_gradient_reaches_a_parameter_through_alpha():
    views = random_views(15, n=4, d=3)
    for detach_alpha in (True, False):
        loss = AlphaCLLoss(Scaled(), detach_alpha=detach_alpha)
        loss(*views).backward()
        assert (loss.strategy.log_tau.grad is None) == detach_alpha


Z = torch.zeros(3, 2)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: AlphaCLLoss(0.5), TypeError, r"strategy: expected a name or a strategy object, got 0.5; .*tau=0.5"),
        (
            lambda: AlphaCLLoss(temperature=0.5),
            TypeError,
            r"direct: expected options among tau, p, normalize, got temperature; the temperature is called tau",
        ),
        (
            lambda: AlphaCLLoss("infonce", gamma=2),
            TypeError,
            r"infonce: expected options among tau, eps, got gamma; the loss's own options are strategy, negatives, ",
        ),
        (
            lambda: AlphaCLLoss(strategies.Direct),
            TypeError,
            r"strategy: expected a name or a strategy object, got <class",
        ),
        (lambda: AlphaCLLoss("nope"), ValueError, r"strategy: expected one of adnce, circle, .*got 'nope'"),
        (lambda: AlphaCLLoss(negatives="all"), ValueError, r"negatives: expected one of 'both', .*, got 'all'"),
        (lambda: AlphaCLLoss(reduction="sum"), ValueError, r"reduction: expected one of 'mean', 'none', got 'sum'"),
        (lambda: AlphaCLLoss(symmetric="yes"), TypeError, r"symmetric: expected True or False, got 'yes'"),
        (lambda: AlphaCLLoss(l2_normalize=None), TypeError, r"l2_normalize: expected True or False, got None"),
        (lambda: AlphaCLLoss()(Z, Z[:2]), ValueError, r"z_aug: expected the shape of z \(3, 2\), got \(2, 2\)"),
        (lambda: AlphaCLLoss()(Z[None], Z), ValueError, r"z: expected shape \[rows, columns\], got \(1, 3, 2\)"),
        (lambda: AlphaCLLoss()(Z.int(), Z), TypeError, r"z: expected a floating-point tensor, got torch.int32"),
        (lambda: AlphaCLLoss()(Z[:1], Z[:1]), ValueError, r"z: expected at least 2 samples \(or a queue\).*, got 1"),
        (lambda: AlphaCLLoss()(Z[:0], Z[:0]), ValueError, r"z: expected at least 1 sample, got 0"),
        (lambda: AlphaCLLoss()(Z, Z, queue=Z[:, :1]), ValueError, r"queue: expected 2 columns as z has, got \(3, 1\)"),
        (
            lambda: AlphaCLLoss(negatives="queue")(Z, Z),
            ValueError,
            r'queue: expected .* as negatives is "queue", got none',
        ),
        (
            lambda: AlphaCLLoss(negatives="queue")(Z, Z, queue=Z[:0]),
            ValueError,
            r'queue: expected .* Q >= 1, as negatives is "queue"',
        ),
    ],
)
def test_errors_say_what_was_expected(call, error, message):
    with pytest.raises(error, match=message):
        call()


@pytest.mark.parametrize("anything", [1.0, 7.0, float("inf"), float("nan")])
def test_weights_of_excluded_columns_do_not_count(anything):
    """Anything may stand there: neither the value nor the weight of the positive, their sum by default, sees it."""

    def alike(d2_pos, d2_neg):
        return PairWeights(torch.ones_like(d2_neg).masked_fill(torch.isinf(d2_neg), anything))

    views = random_views(0, n=4, d=3)
    got, expected = AlphaCLLoss(alike)(*views), AlphaCLLoss("triplet_contrastive")(*views)
    torch.testing.assert_close(got, expected)
    gradients = [torch.autograd.grad(loss, views) for loss in (got, expected)]
    torch.testing.assert_close(*gradients)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda z: AlphaCLLoss()(z, z, queue=EmbeddingQueue(4, 3)), TypeError, r"queue: .* pass queue.embeddings"),
        (lambda z: AlphaCLLoss(strategies.InfoNCE), TypeError, r"strategy: .* made with brackets: InfoNCE\(\)"),
        (lambda z: AlphaCLLoss(lambda p, n: PairWeights(p))(z, z), ValueError, r"PairWeights.neg \(8, 8\), got \(8,\)"),
    ],
)
def test_common_mistakes_are_told_the_way_out(call, error, message):
    with pytest.raises(error, match=message):
        call(random_views(0, n=4, d=3)[0])
