"""Every engine computes the same loss: each property is written once, and holds for all engines that can do it.

test_softmax_kernel.py runs this file once more in Triton's interpreter, for the engine "kernel" alone.
"""

import functools
import itertools
import math
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from batches import OPTIONS, STRATEGIES, random_batch, random_queue, random_weights, several_views
from oracles import loop_loss, relative_error

from alphacl_plugins import AlphaCLLoss, EmbeddingQueue, PairWeights, build_strategy, strategies, strategy_names
from alphacl_plugins.functional import energy
from alphacl_plugins.strategies import Direct, InfoNCE
from live_bytes import LiveBytes
from loss_measurements import Case, measure_memory

ENGINES = {
    "autograd": {"block_size": "autograd"},
    "auto": {"block_size": "auto"},
    "blocks of 1": {"block_size": 1},
    "blocks of 3": {"block_size": 3},
    "one block": {"block_size": 100},
    "ring": {"gather_distributed": "ring", "block_size": 2},
}
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
if INTERPRETED:
    ENGINES = {"kernel": {"block_size": "kernel"}}
DTYPE, TOLERANCE = (torch.float32, 1e-5) if INTERPRETED else (torch.float64, 1e-12)
every_engine = pytest.mark.parametrize("engine", ENGINES)
every_reduction = pytest.mark.parametrize("reduction", ["mean", "none"])


def engines_without(*names):
    return pytest.mark.parametrize("engine", [engine for engine in ENGINES if engine not in names])


def margin(d2_pos, d2_neg):
    """A user's function."""
    return PairWeights((d2_neg < d2_pos[:, None] + 0.5).to(d2_neg.dtype))


BUILT = {name: build_strategy(registered, **options) for name, (registered, options) in STRATEGIES.items()}
BUILT |= {name: build_strategy(name) for name in strategy_names() if name not in STRATEGIES}
BUILT |= {
    "regularized": strategies.Regularized(derivative=lambda a: 0.5 / a, inverse_derivative=lambda v: 0.5 / v),
    "family": strategies.Family(phi=torch.sqrt, psi=lambda x: torch.exp(2 * x)),
    "margin": margin,
}
NEED_THE_WHOLE_ROW = {"inverse_exact", "square", "tsallis", "kl_ball", "triplet", "modified_triplet"}
NEED_THE_WHOLE_ROW |= {"regularized", "family", "margin"}
OF_THE_SOFTMAX_TYPE = {"infonce", "entropy", "direct", "dhel", "mine", "soft_triplet", "n_plus_1_tuplet"}
OF_THE_SOFTMAX_TYPE |= {"lifted_structured", "hardness", "debiased", "rince", "multi_similarity"}
OF_THE_SOFTMAX_TYPE |= {"dcl_weighted", "macl"}


def can(engine, name, labels="none"):
    """Whether an engine can do a strategy of BUILT, and labels."""
    name = name.split(",")[0]
    if engine == "kernel":
        return name in OF_THE_SOFTMAX_TYPE and labels == "none"
    return engine != "ring" or name not in NEED_THE_WHOLE_ROW


def skip_unless(able):
    if not able:
        pytest.skip("not for this engine")


def assert_near(got, expected, scale=None, *, tolerance=TOLERANCE, what=""):
    """Up to a tolerance in units of the largest entry of ``scale``, by default the expected one."""
    got, expected = (torch.as_tensor(x).detach().double() for x in (got, expected))
    scale = expected if scale is None else torch.as_tensor(scale).detach()
    assert got.shape == expected.shape, what
    assert float((got - expected).abs().max()) <= tolerance * float(scale.abs().max()), what


def gradient_of(loss, views):
    return torch.stack([g.double() for g in torch.autograd.grad(loss, views, retain_graph=True)])


def exactly(views):
    """The same views in float64."""
    return [view.detach().double().requires_grad_() for view in views]


def spread(name, every):
    """Some of all mixes of options, other ones for each strategy."""
    return OPTIONS[list(BUILT).index(name) % every :: every]


def kind(combination):
    return {"negatives": combination.negatives, "symmetric": combination.symmetric}


# The numbers


@functools.cache
def frozen():
    """What the first implementation computed: data/freeze_engines.py."""
    return dict(np.load(Path(__file__).parents[1] / "data" / "engines.npz"))


def check_frozen(engine, name, combination):
    file, what = frozen(), f"{engine}, {name}, {combination}"
    place = list(file["strategies"]).index(name), list(file["combinations"]).index(str(combination))
    anchors = combination.anchors
    views = [torch.tensor(view, dtype=DTYPE, requires_grad=True) for view in file["views"][: combination.views]]
    batch = random_batch(combination.views, combination.labels)[1]
    batch["queue"] = torch.tensor(file["queue"], dtype=DTYPE) if combination.queued else None
    losses = file["losses"][place][:anchors]
    loss = AlphaCLLoss(BUILT[name], reduction="none", **kind(combination), **ENGINES[engine])
    per_anchor = loss(*views, **batch)
    assert_near(per_anchor, losses, what=what)
    weights = torch.tensor(file["weights"][:anchors], dtype=DTYPE)
    gradient = file["gradients"][place][: combination.views]
    assert_near(gradient_of((weights * per_anchor).sum(), views), gradient, what=what)
    stats = loss.last_stats
    assert list(stats) == ["d2_pos", "d2_neg", "alpha_entropy", "effective_negatives", "negatives"]
    assert stats.pop("negatives") * (1 + 1e-12) >= stats["effective_negatives"]
    for (statistic, got), expected in zip(stats.items(), file["stats"][place], strict=True):
        assert_near(got, expected, max(abs(expected), 1.0), what=f"{what}: {statistic}")
    mean = AlphaCLLoss(BUILT[name], **kind(combination), **ENGINES[engine])(*views, **batch)
    assert_near(mean, losses.mean(), losses, what=what)
    mean_gradient = gradient_of(per_anchor.mean(), views)
    assert_near(gradient_of(mean, views), mean_gradient, 2 * mean_gradient, what=what)


@every_engine
@pytest.mark.parametrize("name", STRATEGIES)
def test_it_is_the_loss_that_was_frozen(engine, name):
    for combination in spread(name, every=13):
        if can(engine, name, combination.labels):
            check_frozen(engine, name, combination)


@pytest.mark.slow
@every_engine
@pytest.mark.parametrize("name", STRATEGIES)
def test_it_is_the_loss_that_was_frozen_in_every_combination(engine, name):
    for combination in OPTIONS:
        if can(engine, name, combination.labels):
            check_frozen(engine, name, combination)


@functools.cache
def by_loops(name, combination, normalize):
    """Losses, and gradients of their mean and of a weighted sum."""
    views, batch = random_batch(combination.views, combination.labels, combination.queued)
    energies, values = loop_loss(BUILT[name], *views, normalize=normalize, **kind(combination), **batch)
    sums = {"mean": energies.mean(), "none": (random_weights(combination.anchors) * energies).sum()}
    return values.detach(), {reduction: gradient_of(total, views) for reduction, total in sums.items()}


def check_loops(engine, name, combination, normalize=True):
    values, gradients = by_loops(name, combination, normalize)
    views, batch = random_batch(combination.views, combination.labels, combination.queued, dtype=DTYPE)
    for reduction, gradient in gradients.items():
        what = f"{engine}, {name}, {combination}, {reduction}, l2_normalize={normalize}"
        options = kind(combination) | {"reduction": reduction, "l2_normalize": normalize}
        got = AlphaCLLoss(BUILT[name], **options, **ENGINES[engine])(*views, **batch)
        assert_near(got, values.mean() if reduction == "mean" else values, values, what=what)
        total = got if reduction == "mean" else (random_weights(combination.anchors, DTYPE) * got).sum()
        assert_near(gradient_of(total, views), gradient, what=what)


@every_engine
@pytest.mark.parametrize("name", BUILT)
def test_it_is_the_loss_by_plain_loops(engine, name):
    for place, combination in enumerate(spread(name, every=29)):
        if can(engine, name, combination.labels):
            check_loops(engine, name, combination, normalize=place != 1)


@pytest.mark.slow
@every_engine
@pytest.mark.parametrize("name", BUILT)
def test_it_is_the_loss_by_plain_loops_in_every_combination(engine, name):
    for combination in OPTIONS:
        if can(engine, name, combination.labels):
            check_loops(engine, name, combination)


@pytest.mark.skipif(INTERPRETED, reason="not for kernels")
@pytest.mark.parametrize("name", ["infonce", "square, tau 0.3"])
def test_none_is_another_word_for_autograd(name):
    views = several_views(2)
    losses = [AlphaCLLoss(BUILT[name], block_size=block)(*views) for block in (None, "autograd")]
    assert torch.equal(*losses)
    slopes = [torch.autograd.grad(loss, views, create_graph=True)[0] for loss in losses]
    assert torch.equal(*(torch.autograd.grad(slope.square().sum(), views)[0] for slope in slopes))


@every_engine
def test_a_queue_alone_serves_one_sample(engine):
    views, batch = random_batch(2, n=1, queued=True, dtype=DTYPE)
    energies, values = loop_loss(InfoNCE(0.2), *views, negatives="queue", symmetric=False, queue=batch["queue"])
    loss = AlphaCLLoss(InfoNCE(0.2), negatives="queue", symmetric=False, **ENGINES[engine])(*views, **batch)
    assert_near(loss, values.mean())
    assert_near(gradient_of(loss, views), gradient_of(energies.mean(), views))


# Memory


def engine_for_memory(engine, n):
    """Blocks of one size, whatever N; tiles that are not too many."""
    return {"kernel": {"block_size": "kernel"}, "ring": {"gather_distributed": "ring", "block_size": 32}}.get(
        engine, {"block_size": 4096 // n}
    )


BESIDE_AUTOGRAD = ["kernel"] if INTERPRETED else ["blocks of 3", "ring"]


@every_reduction
@pytest.mark.parametrize("engine", BESIDE_AUTOGRAD)
@pytest.mark.parametrize("name", ["infonce", "square", "inverse_exact"])
def test_memory_grows_with_the_batch_and_not_with_its_square(engine, name, reduction):
    """What is saved for backward, and the peak; in units of the embeddings."""
    skip_unless(can(engine, name))
    saved, peaks = [], []
    for n in (64, 128) if INTERPRETED else (128, 256):
        views, size = several_views(2, n, 32, dtype=DTYPE), 2 * n * 32 * DTYPE.itemsize
        kept = []
        hooks = torch.autograd.graph.saved_tensors_hooks(lambda t, kept=kept: kept.append(t.nbytes) or t, lambda t: t)
        with LiveBytes() as memory:
            with hooks:
                loss = AlphaCLLoss(name, reduction=reduction, **engine_for_memory(engine, n))(*views)
            loss.sum().backward()
        saved.append(sum(kept) / size)
        peaks.append(memory.peak / size)
    assert 0 < saved[1] <= min(6, 1.05 * saved[0])
    if not INTERPRETED:  # kernels share out a small batch, with sums for each program
        assert peaks[1] < min(12, 1.05 * peaks[0])


@pytest.mark.skipif(INTERPRETED, reason="not for kernels")
def test_auto_takes_blocks_where_the_matrix_is_large():
    views = several_views(2, n=1200, d=4, dtype=torch.float32)
    with LiveBytes() as memory:
        AlphaCLLoss("infonce")(*views).backward()
    assert memory.peak < 2400 * 2400 * 4


@pytest.mark.slow
@pytest.mark.skipif(INTERPRETED, reason="not for kernels")
@pytest.mark.parametrize("strategy", ["direct", "inverse_exact"])
def test_blocks_leave_no_holes_in_memory(strategy):
    """Small tensors that stay, between large ones that go, once took 1 and 2 GiB here instead of 0.1."""
    measured = measure_memory(Case(strategy, 8192, 128, "cpu", 1, 8.0, "highest"), seconds=60)
    assert measured["extra_bytes"] < 400 * 2**20, measured


# Beside autograd, and under it


@every_reduction
@engines_without("autograd", "auto")  # "auto" may choose autograd
def test_the_gradient_cannot_be_differentiated_again(engine, reduction):
    views = several_views(2, dtype=DTYPE)
    loss = AlphaCLLoss(InfoNCE(0.2), reduction=reduction, **ENGINES[engine])(*views).square().sum()

    def again():
        gradient = torch.autograd.grad(loss, views, create_graph=True)[0]
        gradient.sum().backward()

    with pytest.raises(RuntimeError, match=r"second derivatives|differentiated again"):
        again()


@every_engine
@every_reduction
def test_one_tensor_in_both_places_and_one_without_gradient(engine, reduction):
    z, z_aug = several_views(2, dtype=DTYPE)
    for views in ((z, z), (z, z_aug.detach()), (z.detach(), z_aug)):
        leaf = next(view for view in views if view.requires_grad)
        exact = leaf.detach().double().requires_grad_()
        same = [exact if view is leaf else view.detach().double() for view in views]
        got = AlphaCLLoss(InfoNCE(0.2), reduction=reduction, **ENGINES[engine])(*views)
        expected = AlphaCLLoss(InfoNCE(0.2), reduction=reduction, block_size=None)(*same)
        assert_near(gradient_of(got.sum(), [leaf]), gradient_of(expected.sum(), [exact]))


@every_engine
@every_reduction
def test_no_graph_where_none_is_wanted(engine, reduction):
    views = several_views(2, dtype=DTYPE)
    loss = AlphaCLLoss(InfoNCE(0.2), reduction=reduction, **ENGINES[engine])
    assert not loss(*[view.detach() for view in views]).requires_grad
    expected = loss(*views).detach()
    with torch.no_grad():
        assert not loss(*views).requires_grad
        assert torch.equal(loss(*views), expected)
    assert not any(stat.requires_grad for stat in loss.last_stats.values())


@every_engine
@every_reduction
def test_a_graph_that_is_retained_serves_twice(engine, reduction):
    views = several_views(2, dtype=DTYPE)
    loss = AlphaCLLoss(InfoNCE(0.2), reduction=reduction, **ENGINES[engine])(*views).sum()
    first = gradient_of(loss, views)
    assert first.abs().max() > 0
    assert torch.equal(first, gradient_of(2 * loss / 2, views))


def check_compiled(engine, name, reduction, labels="unequal", n_views=2):
    torch._dynamo.reset()
    options = ENGINES[engine]
    if isinstance(options["block_size"], int):
        options = options | {"block_size": 8}  # a graph with less to compile, of more than one block
    views, batch = random_batch(n_views, labels, queued=True)
    loss = AlphaCLLoss(BUILT[name], reduction=reduction, **options)
    expected = loss(*views, **batch)
    compiled = torch.compile(loss, backend="aot_eager", fullgraph=True)(*views, **batch)
    assert_near(compiled, expected)
    assert_near(gradient_of(compiled.sum(), views), gradient_of(expected.sum(), views))


@pytest.mark.skipif(torch.__version__ < "2.10", reason="an older torch.compile copies no NamedTuple with labels")
@engines_without("kernel", "blocks of 1", "one block")
@pytest.mark.parametrize(
    ("name", "reduction"), [("direct", "mean"), pytest.param("infonce", "none", marks=pytest.mark.slow)]
)
def test_compiled_without_graph_breaks_it_is_the_same(engine, name, reduction):
    check_compiled(engine, name, reduction)


@pytest.mark.slow
@engines_without("kernel", "blocks of 1", "one block")
@pytest.mark.parametrize("name", strategy_names())
def test_every_strategy_compiles_without_graph_breaks(engine, name):
    skip_unless(can(engine, name))
    for labels, reduction in (("none", "mean"), ("unequal", "none")):
        check_compiled(engine, name, reduction, labels, n_views=3)


# Precision


@pytest.mark.filterwarnings("ignore:overflow:RuntimeWarning")  # NumPy's, which Triton's interpreter computes with
@every_engine
@every_reduction
def test_far_from_the_origin_the_gradient_keeps_its_precision(engine, reduction):
    views = [(1e3 + view.detach()).float().requires_grad_() for view in several_views(2, n=6, d=4)]
    options = {"l2_normalize": False, "reduction": reduction}
    got = AlphaCLLoss(InfoNCE(0.5), **options, **ENGINES[engine])(*views).mean()
    exact = exactly(views)
    expected = AlphaCLLoss(InfoNCE(0.5), block_size=None, **options)(*exact).mean()
    assert_near(got, expected, tolerance=1e-5)
    tolerance = 1e-4 if engine == "kernel" else 1e-5
    assert_near(gradient_of(got, views), gradient_of(expected, exact), tolerance=tolerance)


@every_engine
@every_reduction
def test_views_and_queue_of_different_precision_mix(engine, reduction):
    low = torch.bfloat16 if INTERPRETED else torch.float32
    z, z_aug = several_views(2, dtype=DTYPE)
    views = [z.detach().to(low).requires_grad_(), z_aug]
    queue, exact = random_queue(dtype=torch.bfloat16), exactly(views)
    loss = AlphaCLLoss(InfoNCE(0.2), reduction=reduction, **ENGINES[engine])(*views, queue=queue)
    expected = AlphaCLLoss(InfoNCE(0.2), reduction=reduction, block_size=None)(*exact, queue=queue.double())
    assert loss.dtype == DTYPE
    assert_near(loss, expected, tolerance=4 * torch.finfo(low).eps)
    gradients = (torch.autograd.grad(total.sum(), leaves) for total, leaves in ((loss, views), (expected, exact)))
    for g, e, dtype in zip(*gradients, (low, DTYPE), strict=True):
        assert g.dtype == dtype
        assert_near(g, e, tolerance=4 * torch.finfo(low).eps)


@every_engine
@every_reduction
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_scaled_loss_of_half_precision_keeps_small_gradients(engine, dtype, reduction):
    """As a GradScaler does: what float16 would round to 0 survives if it is multiplied before it is rounded."""
    views = several_views(2, n=6, d=4, dtype=dtype)
    exact, factor = exactly(views), 2.0**14 * 1e-6
    expected = factor * gradient_of(AlphaCLLoss(InfoNCE(0.2), block_size=None)(*exact), exact)
    loss = AlphaCLLoss(InfoNCE(0.2), reduction=reduction, **ENGINES[engine])
    for autocast in (True, False):
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
            value = loss(*views).mean()
        assert value.dtype == torch.float32
        got = torch.autograd.grad(factor * value, views)
        assert all(g.dtype == dtype for g in got)
        assert_near(torch.stack(got), expected, tolerance=0.01)


@every_engine
def test_autocast_does_not_lower_the_precision(engine):
    views = several_views(2, n=6, d=4, dtype=torch.float32)
    loss = AlphaCLLoss(InfoNCE(0.2), **ENGINES[engine])
    expected = gradient_of(loss(*views), views)
    for dtype in (torch.float16, torch.bfloat16):
        with torch.autocast("cpu", dtype=dtype):
            value = loss(*views)
            if engine != "autograd":  # there, PyTorch's own backward would follow autocast
                assert_near(gradient_of(value, views), expected, tolerance=1e-6)
        assert_near(gradient_of(value, views), expected, tolerance=1e-6)


@every_engine
@pytest.mark.parametrize("tau", [1e-3, 1e3])
@pytest.mark.parametrize("strategy", [InfoNCE, Direct])
def test_extreme_temperatures_duplicates_and_zero_rows(engine, strategy, tau):
    z, z_aug = several_views(2, n=6, d=4, dtype=DTYPE)
    rows = torch.cat([z.detach()[:4], z.detach()[:1], torch.zeros(1, 4, dtype=DTYPE)])
    views = [rows.requires_grad_(), z_aug]
    exact = exactly(views)
    got = AlphaCLLoss(strategy(tau), **ENGINES[engine])(*views)
    expected = AlphaCLLoss(strategy(tau), block_size=None)(*exact)
    assert_near(got, expected)
    tolerance = TOLERANCE * (100 if tau < 1 else 1)
    assert_near(gradient_of(got, views), gradient_of(expected, exact), tolerance=tolerance)


@every_engine
@pytest.mark.parametrize("l2_normalize", [True, False])
@pytest.mark.parametrize("negatives", ["cross", "queue"])
def test_one_row_that_is_no_number_spoils_its_own_loss_alone(engine, negatives, l2_normalize):
    views, batch = random_batch(2, n=6, queued=True, dtype=DTYPE)
    loss = AlphaCLLoss(
        InfoNCE(0.5),
        negatives=negatives,
        symmetric=False,
        reduction="none",
        l2_normalize=l2_normalize,
        **ENGINES[engine],
    )
    others = torch.arange(6) != 2
    expected = loss(*views, **batch)
    gradients = torch.autograd.grad(expected[others].sum(), views)
    with torch.no_grad():
        views[0][2, 1] = torch.nan
    got = loss(*views, **batch)
    assert got.isnan().tolist() == [row == 2 for row in range(6)]
    assert_near(got[others], expected[others])
    if engine == "ring":  # a tile's product of weights and embeddings has 0 times NaN
        return
    got_gradients = torch.autograd.grad(got[others].sum(), views)
    for view in range(2 if negatives == "queue" else 1):  # with "cross", the other view's rows are its negatives
        assert_near(got_gradients[view][others], gradients[view][others])


@every_engine
@every_reduction
@pytest.mark.parametrize("name", ["infonce", "direct", "direct, not normalized"])
def test_what_is_not_finite_does_not_pass_for_a_loss(engine, name, reduction):
    views, batch = random_batch(2, n=6, queued=True, dtype=DTYPE)
    batch["queue"][1, 2] = torch.nan  # a negative of every anchor
    loss = AlphaCLLoss(BUILT[name], negatives="queue", reduction=reduction, **ENGINES[engine])(*views, **batch)
    assert loss.isnan().all()
    assert all(g.isnan().any() for g in torch.autograd.grad(loss.sum(), views))


# A queue that moves on, statistics that are read late


@every_engine
@every_reduction
@pytest.mark.parametrize("l2_normalize", [True, False])
@pytest.mark.parametrize("name", ["infonce", "square, tau 0.3"])
def test_the_queue_may_be_filled_before_backward(engine, name, reduction, l2_normalize):
    """As its documentation allows: the gradient is that of the queue as it was at the call."""
    skip_unless(can(engine, name))
    gradients = []
    for filled_first in (False, True):
        queue = EmbeddingQueue(7, dim=3).to(DTYPE)
        views = several_views(2, dtype=DTYPE)
        loss = AlphaCLLoss(BUILT[name], reduction=reduction, l2_normalize=l2_normalize, **ENGINES[engine])
        total = loss(*views, queue=queue.embeddings).square().sum()
        if filled_first:
            queue.enqueue(random_queue(dtype=DTYPE))
        gradients.append(gradient_of(total, views))
        if not filled_first:
            queue.enqueue(random_queue(dtype=DTYPE))
            later = gradient_of(loss(*views, queue=queue.embeddings).square().sum(), views)
    assert torch.equal(*gradients)
    assert relative_error(later, gradients[0]) > 1e-3  # the queue matters


@every_engine
@every_reduction
@pytest.mark.parametrize("l2_normalize", [True, False])
def test_statistics_are_those_of_the_call_whenever_they_are_read(engine, reduction, l2_normalize):
    def fresh():
        strategy = strategies.LearnableTemperature(InfoNCE(0.2))
        loss = AlphaCLLoss(strategy, reduction=reduction, l2_normalize=l2_normalize, **ENGINES[engine])
        return loss, random_queue(dtype=DTYPE)

    views = several_views(2, dtype=DTYPE)
    loss, queue = fresh()
    loss(*views, queue=queue)
    expected = {name: float(stat) for name, stat in loss.last_stats.items()}  # read at once
    loss, queue = fresh()
    loss(*views, queue=queue)
    queue.mul_(2).add_(1)
    loss.strategy.tau = 0.5
    late = loss.last_stats
    assert {name: float(stat) for name, stat in late.items()} == expected
    assert {name: float(stat) for name, stat in loss.last_stats.items()} == expected
    loss(*views, queue=queue)
    other = {name: float(stat) for name, stat in loss.last_stats.items()}
    assert all(other[name] != expected[name] for name in ("d2_neg", "alpha_entropy", "effective_negatives", "tau"))
    assert {name: float(stat) for name, stat in late.items()} == expected


# Strategies with parameters, and a user's own


@every_engine
@every_reduction
@pytest.mark.parametrize("labels", ["none", "unequal", "all equal"])
@pytest.mark.parametrize("name", ["infonce, eps 0", "square, tau 0.3", "inverse_exact, gamma 3", "dhel"])
def test_a_temperature_learns_the_same(engine, name, labels, reduction):
    skip_unless(can(engine, name, labels))
    found = []
    for dtype, options in ((torch.float64, {"block_size": None}), (DTYPE, ENGINES[engine])):
        module = strategies.LearnableTemperature(BUILT[name])
        views, batch = random_batch(3, labels, queued=True, dtype=dtype)
        loss = AlphaCLLoss(module, reduction=reduction, **options)(*views, **batch).mean()
        found.append((loss, torch.autograd.grad(loss, module.log_tau, retain_graph=True)[0], gradient_of(loss, views)))
    (value, slope, gradient), (got, got_slope, got_gradient) = found
    assert_near(got, value)
    assert_near(got_slope, slope, tolerance=max(TOLERANCE, 1e-6))  # log τ is float32
    assert slope.abs().max() > 0
    assert_near(got_gradient, gradient)


class Learning(torch.nn.Module):
    """A strategy of a user's own whose value has a gradient for a parameter."""

    def __init__(self):
        super().__init__()
        self.scale = torch.nn.Parameter(torch.tensor(1.5, dtype=torch.float64))

    def forward(self, d2_pos, d2_neg):
        return PairWeights(torch.softmax(-self.scale * d2_neg, dim=1), value=self.scale * d2_pos)


@engines_without("ring", "kernel")
@every_reduction
@pytest.mark.parametrize("labels", ["none", "unequal"])
def test_parameters_of_a_users_strategy_learn_the_same(engine, reduction, labels):
    views, batch = random_batch(3, labels, queued=True)
    module = Learning()
    found = []
    for options in ({"block_size": None}, ENGINES[engine]):
        loss = AlphaCLLoss(module, reduction=reduction, **options)(*views, **batch).mean()
        found.append((gradient_of(loss, [module.scale]), gradient_of(loss, views)))
    for got, expected in zip(*reversed(found), strict=True):
        assert_near(got, expected)


def through_alpha(engine):
    """Whether the gradient through α can be asked for: of autograd only."""
    return (True, False) if engine in ("autograd", "auto") else (True,)


def everything(strategy, n_views, labels, **options):
    """Loss, gradient, statistics and pair weights."""
    views, batch = random_batch(n_views, labels, queued=True)
    loss = AlphaCLLoss(strategy, **options)
    value = loss(*views, **batch)
    weights = loss.pair_weights(*views, **batch)
    return [value, gradient_of(value.square().sum(), views), *loss.last_stats.values(), *weights]


def careful(d2_pos, d2_neg):
    return PairWeights(torch.softmax(d2_neg / -0.5, dim=1))


def careless(d2_pos, d2_neg):
    weights = torch.softmax(d2_neg.div_(-0.5), dim=1)
    d2_pos.zero_()
    return PairWeights(weights)


def near(dtype, with_pos=False):
    def strategy(d2_pos, d2_neg):
        chosen = d2_neg < d2_pos[:, None] + 0.5
        return PairWeights(chosen.to(dtype), chosen.any(dim=1).to(dtype) if with_pos else None)

    return strategy


OF_USERS = {  # and what each should be the same as
    "writes into its arguments": (careless, careful),
    "bool": (near(torch.bool), near(torch.float64)),
    "bool, with pos": (near(torch.bool, True), near(torch.float64, True)),
    "int": (near(torch.int64), near(torch.float64)),
    "float32, with pos": (near(torch.float32, True), near(torch.float64, True)),
}


@engines_without("ring", "kernel")
@every_reduction
@pytest.mark.parametrize("own", OF_USERS)
@pytest.mark.parametrize("labels", ["none", "unequal"])
def test_a_users_strategy_may_write_into_its_arguments_and_return_any_dtype(engine, own, labels, reduction):
    for n_views, detach_alpha in itertools.product((2, 3), through_alpha(engine)):
        block_size = ENGINES[engine]["block_size"] if detach_alpha else "auto"
        options = {"reduction": reduction, "detach_alpha": detach_alpha, "block_size": block_size}
        got, expected = (everything(strategy, n_views, labels, **options) for strategy in OF_USERS[own])
        for g, e in zip(got, expected, strict=True):
            assert g.dtype == e.dtype
            assert_near(g, e, what=f"{n_views} views, detach_alpha={detach_alpha}")


@pytest.mark.parametrize("own", OF_USERS)
def test_a_users_strategy_may_do_so_in_the_energy(own):
    got, expected = (energy(*several_views(2), strategy) for strategy in OF_USERS[own])
    assert_near(got, expected)


@engines_without("ring", "kernel")
@pytest.mark.parametrize("classes", [2, 4, 8])
def test_with_labels_a_strategy_is_asked_once_for_each_positive_and_block(engine, classes):
    """Not once for each row of the batch, which made the time of a step grow with N³."""
    questions = []

    def counting(d2_pos, d2_neg):
        questions.append(len(d2_pos))
        return margin(d2_pos, d2_neg)

    n = 16
    AlphaCLLoss(counting, **ENGINES[engine])(*several_views(2, n), labels=torch.arange(n) % classes)
    anchors, positives = 2 * n, 2 * n // classes - 1
    size = ENGINES[engine]["block_size"]
    blocks = math.ceil(anchors / size) if isinstance(size, int) else 1
    assert 0 < len(questions) <= positives * blocks
    assert sum(questions) <= positives * anchors


# Options


@pytest.mark.skipif(INTERPRETED, reason="not for kernels")
@pytest.mark.parametrize("name", BUILT)
def test_which_strategies_the_ring_and_the_kernels_take(name):
    for engine, options, message in (
        ("ring", {"gather_distributed": "ring"}, r'gather_distributed: expected .* got "ring"'),
        ("kernel", {"block_size": "kernel"}, r'block_size: expected .* got "kernel"'),
    ):
        if can(engine, name):
            AlphaCLLoss(BUILT[name], **options)
        else:
            with pytest.raises(ValueError, match=message):
                AlphaCLLoss(BUILT[name], **options)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"block_size": 0}, ValueError, r'block_size: expected "auto", .* got 0'),
        ({"block_size": "big"}, TypeError, r"block_size: expected .* got 'big'"),
        ({"block_size": 2.0}, TypeError, r"block_size: expected .* got 2.0"),
        ({"block_size": True}, TypeError, r"block_size: expected .* got True"),
        ({"block_size": 8, "detach_alpha": False}, ValueError, r"block_size: .* with detach_alpha=False, .* got 8"),
        (
            {"gather_distributed": "ring", "detach_alpha": False},
            ValueError,
            r'gather_distributed: .* with detach_alpha=False, got "ring"',
        ),
        ({"gather_distributed": "rings"}, ValueError, r"gather_distributed: expected one of .*'ring', got 'rings'"),
    ],
)
def test_errors_say_what_was_expected(options, error, message):
    with pytest.raises(error, match=message):
        AlphaCLLoss("infonce", **options)


def test_a_strategy_may_not_be_called_by_the_name_of_an_option():
    with pytest.raises(TypeError, match="block_size"):
        build_strategy("direct", block_size=4)


@pytest.mark.parametrize("engine", BESIDE_AUTOGRAD)
def test_pair_weights_are_the_same_for_every_engine(engine):
    views, batch = random_batch(3, "none" if INTERPRETED else "unequal", queued=True, dtype=DTYPE)
    expected = AlphaCLLoss("infonce", block_size=None).pair_weights(*views, **batch)
    got = AlphaCLLoss("infonce", **ENGINES[engine]).pair_weights(*views, **batch)
    for g, e in zip(got, expected, strict=True):
        assert_near(g, e)


@every_engine
def test_statistics_read_under_autocast_keep_their_precision(engine):
    views, _ = random_batch(2, dtype=torch.float32)
    loss = AlphaCLLoss("direct", **ENGINES[engine])
    loss(*views)
    expected = dict(loss.last_stats)
    loss(*views)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        for name, statistic in loss.last_stats.items():
            assert_near(statistic, expected[name], tolerance=1e-6)
