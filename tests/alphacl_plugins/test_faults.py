"""Faults found by trying public bug reports on this package: odd data, odd defaults of torch, odd calls."""

import contextlib
import dataclasses
import math

import numpy as np
import pytest
import torch
from oracles import loop_loss, random_views, relative_error

import alphacl_plugins as acl
from alphacl_plugins import AlphaCLLoss, EmbeddingQueue, PairWeights, agreement, metrics, strategy_names
from alphacl_plugins.arguments import Call
from alphacl_plugins.checks import check_batch
from alphacl_plugins.engines import blocks
from alphacl_plugins.engines.torch_tiles import TorchTiles
from alphacl_plugins.functional import Laplacian
from alphacl_plugins.spectral import ContrastiveCovariance, contrastive_pca, leading_eigenvectors, take_turns
from alphacl_plugins.strategies import DHEL, Debiased, InfoNCE, Strategy, Weighted
from alphacl_plugins.strategies.guarded import plain
from alphacl_plugins.strategies.separable import RowFactors, Separable


def draw(n=8, d=4, seed=0, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    z = torch.randn(n, d, generator=generator, dtype=torch.float64, device="cpu")
    z_aug = z + 0.1 * torch.randn(n, d, generator=generator, dtype=torch.float64, device="cpu")
    return z.to(dtype), z_aug.to(dtype)


Z, Z_AUG = draw()
LABELS = torch.arange(8) % 3

# Far from the origin -------------------------------------------------------------------------------------------------


def far_away():
    """Fifty rows of unit spread near 2000: float32 itself keeps differences to 1e-4."""
    generator = torch.Generator().manual_seed(0)
    x = (2000 + torch.randn(50, 3, generator=generator, dtype=torch.float64)).float()
    return x, (x + 0.1 * torch.randn(50, 3, generator=generator, dtype=torch.float64)).float(), torch.ones(50, 50)


def covariances(x, x_aug, alpha):
    operator = ContrastiveCovariance(x, x_aug, alpha)
    yield acl.contrastive_covariance(x, x, alpha, x_aug, x_aug)
    yield operator.dense()
    yield operator @ torch.eye(3, dtype=x.dtype)


def test_a_covariance_does_not_depend_on_the_origin():
    x, x_aug, _ = (part.double() for part in far_away())
    expected = torch.zeros(3, 3, dtype=torch.float64)
    for i in range(50):
        expected -= 49 * torch.outer(x[i] - x_aug[i], x[i] - x_aug[i])
        expected += sum(torch.outer(x[i] - x[j], x[i] - x[j]) for j in range(50))
    eigenvalues = torch.linalg.eigvalsh(expected)
    for got in covariances(*far_away()):
        assert got.dtype == torch.float32
        assert relative_error(got.double(), expected) < 1e-5
        assert relative_error(torch.linalg.eigvalsh(got).double(), eigenvalues) < 1e-5
        assert relative_error(got, got.T) < 1e-5


@pytest.mark.parametrize("strategy", ["infonce", "direct", "triplet"])
def test_what_a_strategy_sees_does_not_depend_on_the_origin(strategy):
    x, x_aug, _ = far_away()
    x, x_aug = x / 4, x_aug / 4  # so that weights differ
    got, expected = (
        ContrastiveCovariance(*parts, strategy).dense() for parts in ((x, x_aug), (x.double(), x_aug.double()))
    )
    assert relative_error(got.double(), expected) < 1e-3
    assert acl.energy(x, x_aug, strategy).item() == pytest.approx(
        acl.energy(x.double(), x_aug.double(), strategy).item(), rel=1e-4
    )


def test_metrics_of_distances_do_not_depend_on_the_origin():
    x, x_aug, _ = far_away()
    for metric, parts in ((metrics.uniformity, (x,)), (metrics.alignment, (x, x_aug))):
        expected = metric(*(part.double() for part in parts)).item()
        assert metric(*parts).item() == pytest.approx(expected, rel=1e-5)


def test_eigenvectors_far_from_the_origin():
    x, x_aug, alpha = far_away()
    expected = contrastive_pca(x.double(), x_aug.double(), alpha.double(), 2)
    for solver in ("dense", "operator"):
        got = contrastive_pca(x, x_aug, alpha, 2, solver=solver)
        assert relative_error(got.eigenvalues.double(), expected.eigenvalues) < 1e-5
        assert relative_error(got.components.double(), expected.components) < 1e-3


# Defaults of torch ---------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def default_dtype(dtype):
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


DEFAULTS = {"float64": lambda: default_dtype(torch.float64), "another device": lambda: torch.device("meta")}
ENGINES = {
    "auto": {},
    "blocks": {"block_size": 3},
    "autograd": {"block_size": "autograd"},
    "through alpha": {"detach_alpha": False},
    "none": {"reduction": "none", "block_size": 3},
    "ring": {"gather_distributed": "ring", "block_size": 3},
    "same": {"negatives": "same"},
}


def same_kind(results, expected):
    """float32 on the CPU, and the value that torch's own defaults give."""
    for got, e in zip(results, expected, strict=True):
        assert (got.dtype, got.device.type) == (torch.float32, "cpu")
        torch.testing.assert_close(got, e, equal_nan=True)


def usable(name, options):
    return "gather_distributed" not in options or plain(acl.build_strategy(name)).separable


@pytest.mark.parametrize("defaults", DEFAULTS.values(), ids=DEFAULTS)
@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("name", strategy_names())
def test_a_loss_takes_dtype_and_device_from_its_input(name, engine, defaults):
    if not usable(name, ENGINES[engine]):
        pytest.skip("its weights do not factor")
    queue = torch.ones(3, 4)

    def results(labels, queue):
        loss, z = AlphaCLLoss(name, **ENGINES[engine]), Z.clone().requires_grad_()
        value = loss(z, Z_AUG, labels=labels, queue=queue)
        value.sum().backward()
        weights = loss.pair_weights(Z, Z_AUG, labels=labels, queue=queue)
        return [value.detach(), z.grad, *loss.last_stats.values(), *weights]

    for labels, of_queue in ((None, None), (LABELS, None), (None, queue), (LABELS, queue)):
        expected = results(labels, of_queue)
        with defaults():
            same_kind(results(labels, of_queue), expected)


@pytest.mark.parametrize("defaults", DEFAULTS.values(), ids=DEFAULTS)
@pytest.mark.parametrize("name", ["infonce", "dhel", "square"])
def test_a_temperature_that_learns_changes_neither(name, defaults):
    def results(loss):
        loss.zero_grad()
        z = Z.clone().requires_grad_()
        value = loss(z, Z_AUG, labels=LABELS)
        value.backward()
        return [value.detach(), z.grad, loss.strategy.log_tau.grad, loss.strategy.tau, *loss.last_stats.values()]

    loss = AlphaCLLoss(name, learnable_tau=True)
    expected = results(loss)
    with defaults():
        same_kind(results(loss), expected)


@pytest.mark.parametrize("defaults", DEFAULTS.values(), ids=DEFAULTS)
@pytest.mark.parametrize("labels", [None, LABELS])
@pytest.mark.parametrize("solver", ["dense", "operator"])
@pytest.mark.parametrize("alpha", ["infonce", "triplet", "kcl", "tensor"])
def test_contrastive_pca_takes_dtype_and_device_from_its_input(alpha, solver, labels, defaults):
    alpha = torch.rand(8, 8, generator=torch.Generator().manual_seed(0)) if alpha == "tensor" else alpha
    expected = contrastive_pca(Z, Z_AUG, alpha, 2, labels=labels, solver=solver)
    with defaults():
        same_kind(contrastive_pca(Z, Z_AUG, alpha, 2, labels=labels, solver=solver), expected)


@pytest.mark.parametrize("defaults", DEFAULTS.values(), ids=DEFAULTS)
@pytest.mark.parametrize("labels", [None, LABELS])
def test_turns_take_dtype_and_device_from_their_input(labels, defaults):
    expected = take_turns(Z, Z_AUG, "infonce", 2, labels=labels)
    with defaults():
        found = take_turns(Z, Z_AUG, "infonce", 2, labels=labels)
    same_kind(found[:2], expected[:2])


@pytest.mark.parametrize("defaults", DEFAULTS.values(), ids=DEFAULTS)
def test_functions_and_metrics_take_dtype_and_device_from_their_input(defaults):
    def results():
        of_one = (metrics.uniformity, metrics.effective_rank, metrics.alpha_entropy, metrics.effective_negatives)
        yield from (metric(Z.abs()) for metric in of_one)
        yield metrics.wasserstein_uniformity(Z).float()
        yield metrics.alignment(Z, Z_AUG)
        yield acl.energy(Z, Z_AUG, "infonce")
        yield acl.energy(Z, Z_AUG, Z @ Z.T)
        yield acl.squared_distances(Z, Z_AUG)
        yield acl.contrastive_covariance(Z, Z, Z @ Z.T, Z_AUG, Z_AUG)
        queue.enqueue(Z)
        yield queue.embeddings

    queue = EmbeddingQueue(5, 4)
    expected = [result.clone() for result in results()]
    queue = EmbeddingQueue(5, 4)
    with defaults():
        same_kind(list(results()), expected)


# Numbers that are not finite, or large ------------------------------------------------------------------------------


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("metric", [metrics.uniformity, metrics.effective_rank, metrics.wasserstein_uniformity])
@pytest.mark.parametrize(("n", "d"), [(8, 4), (3, 5), (4, 1)])
def test_a_metric_of_what_is_not_finite_is_nan(metric, bad, n, d):
    z = draw(n, d)[0]
    assert metric(z).isfinite()
    z[1, 0] = bad
    assert metric(z).isnan()


@pytest.mark.parametrize("weight", [1e38, 1.0, 1e-30])
def test_the_entropy_of_eight_equal_weights_is_log_8_at_any_size(weight):
    alpha = torch.full((3, 8), weight)
    assert metrics.alpha_entropy(alpha).item() == pytest.approx(math.log(8))
    assert metrics.effective_negatives(alpha).item() == pytest.approx(8)


@pytest.mark.parametrize("block_size", ["auto", 3, "autograd"])
def test_the_statistics_of_large_weights_are_right(block_size):
    loss = AlphaCLLoss(lambda d2_pos, d2_neg: PairWeights(torch.full_like(d2_neg, 1e37)), block_size=block_size)
    loss(Z, Z_AUG)
    assert loss.last_stats["alpha_entropy"].item() == pytest.approx(math.log(14))
    assert loss.last_stats["effective_negatives"].item() == pytest.approx(14)


@pytest.mark.parametrize("scale", [1e37, 1e-37])
def test_the_effective_rank_does_not_depend_on_the_scale(scale):
    assert metrics.effective_rank(scale * Z).item() == pytest.approx(metrics.effective_rank(Z).item(), rel=1e-4)


# Weights below 0 ----------------------------------------------------------------------------------------------------


def signed(d2_pos, d2_neg):
    """Repel what is near, attract what is far."""
    return PairWeights((1.0 - d2_neg).masked_fill(torch.isinf(d2_neg), 0.0))


@pytest.mark.parametrize("labels", [None, LABELS])
@pytest.mark.parametrize("options", [{}, {"block_size": 3}, {"block_size": "autograd"}, {"reduction": "none"}])
def test_signed_weights_are_held_fixed_in_every_engine(options, labels):
    views = random_views(0, n=8, d=4)
    loss = AlphaCLLoss(signed, **options)
    energies, _ = loop_loss(signed, *views, negatives="both", symmetric=True, labels=labels)
    value = loss(*views, labels=labels)
    torch.testing.assert_close(value, energies if options.get("reduction") else energies.mean())
    got, expected = (torch.autograd.grad(x.mean(), views) for x in (value, energies))
    torch.testing.assert_close(got, expected)
    alpha = loss.pair_weights(*views, labels=labels).neg
    assert (alpha < 0).any()
    entropy = []
    for row in alpha.clamp_min(0).tolist():
        p = [w / sum(row) for w in row if w > 0]
        entropy.append(-sum(x * math.log(x) for x in p))
    assert loss.last_stats["alpha_entropy"].item() == pytest.approx(np.mean(entropy), rel=1e-9)


class Attract(Separable):
    """A row sum of -1: weights that factor, below 0."""

    def log_weight(self, d2):
        return -d2

    def factors(self, d2_pos, totals):
        return RowFactors(-torch.ones_like(d2_pos), pos=-torch.ones_like(d2_pos))


@pytest.mark.parametrize("options", [*ENGINES.values()], ids=ENGINES)
def test_signed_weights_that_factor(options):
    views = random_views(0, n=8, d=4)
    loss = AlphaCLLoss(Attract(), **options)
    negatives = options.get("negatives", "both")
    energies, _ = loop_loss(Attract(), *views, negatives=negatives, symmetric=True)
    value = loss(*views)
    torch.testing.assert_close(value.mean(), energies.mean())
    if options.get("detach_alpha", True):
        got, expected = (torch.autograd.grad(x.mean(), views) for x in (value, energies))
        torch.testing.assert_close(got, expected)
    assert loss.last_stats["alpha_entropy"] == 0  # no positive part


# Batches without negatives --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [*ENGINES.values()], ids=ENGINES)
@pytest.mark.parametrize("name", ["infonce", "triplet"])
def test_a_batch_of_one_class_has_no_effective_negatives(name, options):
    if not usable(name, options):
        pytest.skip("its weights do not factor")
    loss = AlphaCLLoss(name, **options)
    assert loss(Z, Z_AUG, labels=torch.zeros(8, dtype=torch.long)).sum() == 0
    assert loss.last_stats["effective_negatives"] == 0
    assert loss.last_stats["alpha_entropy"] == 0


def test_without_weights_no_negative_is_effective():
    assert metrics.effective_negatives(torch.zeros(2, 5)) == 0
    assert metrics.effective_negatives(-torch.ones(2, 5)) == 0


# Odd calls ------------------------------------------------------------------------------------------------------------

ODD = {
    "sparse": (lambda: Z.to_sparse(), "torch.sparse_coo"),
    "csr": (lambda: Z.to_sparse_csr(), "torch.sparse_csr"),
    "nested": (lambda: torch.nested.nested_tensor([Z[:2], Z[:3]]), "a nested one"),
    "jagged": (lambda: torch.nested.nested_tensor([Z[:2], Z[:3]], layout=torch.jagged), "a nested one"),
    "meta": (lambda: Z.to("meta"), "one without values, on the device meta"),
    "quantised": (lambda: torch.quantize_per_tensor(Z, 0.1, 0, torch.qint8), "torch.qint8"),
}
CALLS = {
    "z": lambda odd: AlphaCLLoss()(odd, Z),
    "z_aug": lambda odd: AlphaCLLoss()(Z, odd),
    "more_views[0]": lambda odd: AlphaCLLoss()(Z, Z, odd),
    "queue": lambda odd: AlphaCLLoss()(Z, Z, queue=odd),
    "keys": lambda odd: EmbeddingQueue(3, 4).enqueue(odd),
    "x": lambda odd: contrastive_pca(odd, None, "infonce", 1),
    "x_aug": lambda odd: take_turns(Z, odd, "infonce", 1),
    "alpha": lambda odd: ContrastiveCovariance(Z, None, odd),
    "matrix": lambda odd: leading_eigenvectors(odd, 1),
    "a": lambda odd: acl.squared_distances(odd, Z),
    "b": lambda odd: acl.squared_distances(Z, odd),
    "z of a metric": lambda odd: metrics.effective_rank(odd),
    "alpha of a metric": lambda odd: metrics.alpha_entropy(odd),
}


@pytest.mark.filterwarnings("ignore:.*(prototype|beta state|deprecated|quantize)")
@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("kind", ODD)
def test_tensors_of_another_kind_are_named(kind, call):
    make, shown = ODD[kind]
    name = call.split(" ")[0].replace("[", r"\[").replace("]", r"\]")
    with pytest.raises(TypeError, match=rf"^{name}: expected .*, got {shown}"):
        CALLS[call](make())


@pytest.mark.parametrize(
    ("odd", "shown"), [(LABELS.to_sparse(), "torch.sparse_coo"), (LABELS.to("meta"), "one without")]
)
def test_labels_of_another_kind_are_named(odd, shown):
    for call in (AlphaCLLoss(), lambda z, z_aug, labels: take_turns(z, z_aug, "infonce", 1, labels=labels)):
        with pytest.raises(TypeError, match=rf"^labels: expected a dense integer tensor \[8\], got {shown}"):
            call(Z, Z_AUG, labels=odd)


def test_the_tensors_of_a_compiler_count_as_values():
    torch.compiler.reset()
    compiled = torch.compile(acl.squared_distances, fullgraph=True, backend="aot_eager", dynamic=True)
    torch.testing.assert_close(compiled(Z, Z_AUG), acl.squared_distances(Z, Z_AUG))


@pytest.mark.parametrize(
    ("views", "message"),
    [
        ([Z, LABELS], r"z_aug: expected embeddings \[N, D\], got torch.int64 \(8,\); labels go by keyword: labels=..."),
        ([Z, Z, LABELS.int()], r"more_views\[0\]: expected embeddings .*torch.int32 .* keyword: labels=..."),
        (
            [[Z, Z], LABELS],
            r"z: expected a tensor \[N, D\], got a list; views go one by one, as in criterion\(\*views\)",
        ),
        (
            [(Z, Z), None],
            r"z: expected a tensor \[N, D\], got a tuple; views go one by one, as in criterion\(\*views\)",
        ),
        ([Z, [Z, Z]], r"z_aug: expected a tensor \[N, D\], got a list; .*criterion\(\*views\)"),
        ([Z, None], r"z_aug: expected the embeddings of another view of the same samples \[N, D\], got None"),
        ([Z, Z, None], r"more_views\[0\]: expected the embeddings of another view .*, got None"),
        ([Z, 0.5], r"z_aug: expected a tensor \[rows, columns\], got float"),
    ],
)
def test_views_that_are_none_are_told_the_way_out(views, message):
    with pytest.raises(TypeError, match=f"^{message}"):
        AlphaCLLoss()(*views)
    with pytest.raises(TypeError, match=f"^{message}"):
        check_batch(views, Call(), "both", 1)


def test_a_hessian_of_the_default_loss_says_what_it_needs():
    z = Z.clone().requires_grad_()
    for options in ({}, {"block_size": 3}, {"reduction": "none"}):
        (gradient,) = torch.autograd.grad(AlphaCLLoss("infonce", **options)(z, Z_AUG).sum(), z, create_graph=True)
        with pytest.raises(RuntimeError, match=r'derivatives need AlphaCLLoss\(\.\.\., block_size="autograd"\)'):
            gradient.square().sum().backward()
    loss = AlphaCLLoss("infonce", block_size="autograd")
    hessian = torch.autograd.functional.hessian(lambda x: loss(x, Z_AUG.double()), Z.double())
    assert hessian.isfinite().all()


@pytest.mark.parametrize("negatives", ["both", "cross"])
def test_positives_that_lie_close_are_measured_by_their_difference(negatives):
    """Weights of a singular kernel see D_+; by the product of the whole matrix it would be off by 1e-7 in float32."""
    z = torch.randn(64, 16, generator=torch.Generator().manual_seed(0))
    results = []
    for dtype, block_size in ((torch.float32, "auto"), (torch.float32, 7), (torch.float64, "autograd")):
        views = [z.to(dtype, copy=True).requires_grad_() for _ in range(2)]
        value = AlphaCLLoss("kcl", kernel="riesz", t=1.0, negatives=negatives, block_size=block_size)(*views)
        results.append(torch.stack([value.double(), torch.autograd.grad(value, views)[0].double().norm()]))
    torch.testing.assert_close(results[0], results[2], rtol=1e-4, atol=0.0)
    torch.testing.assert_close(results[1], results[2], rtol=1e-4, atol=0.0)


class KeepsItsAnswer(Strategy):
    """Pure, and gives the same tensor each time."""

    pure = True
    alpha = None

    def __call__(self, d2_pos, d2_neg):
        if self.alpha is None:
            self.alpha = torch.ones_like(d2_neg).masked_fill(d2_neg.isinf(), 0.0)
        return PairWeights(self.alpha, torch.ones_like(d2_pos))


@pytest.mark.parametrize("labels", [None, torch.arange(6) % 2], ids=["no labels", "labels"])
def test_weights_that_a_strategy_keeps_are_not_written_to(labels):
    views = [torch.randn(6, 4, generator=torch.Generator().manual_seed(i), dtype=torch.float64) for i in range(2)]
    for options in ({}, {"block_size": "autograd"}):
        loss = AlphaCLLoss(KeepsItsAnswer(), **options)
        first = loss(*(view.requires_grad_() for view in views), labels=labels)
        assert loss(*views, labels=labels) == first


class AsksAutograd(Strategy):
    """Pure, with weights that autograd gives inside the call."""

    pure = True

    def __call__(self, d2_pos, d2_neg):
        d2 = d2_neg.detach().masked_fill(d2_neg.isinf(), 1.0).requires_grad_()
        (slope,) = torch.autograd.grad(d2.square().sum(), d2)
        return PairWeights(slope.masked_fill(d2_neg.isinf(), 0.0))


@pytest.mark.parametrize("block_size", ["auto", 3, "autograd"])
def test_autograd_is_on_within_a_strategy_and_for_its_temperature(block_size):
    views = [torch.randn(6, 4, generator=torch.Generator().manual_seed(i), dtype=torch.float64) for i in range(2)]
    AlphaCLLoss(AsksAutograd(), block_size=block_size)(*(view.requires_grad_() for view in views)).backward()
    slopes = []
    for tau in (torch.tensor(0.5, dtype=torch.float64, requires_grad=True), 0.5 + 1e-6, 0.5 - 1e-6):
        value = AlphaCLLoss(InfoNCE(tau=tau), block_size=block_size)(*views)
        slopes.append(torch.autograd.grad(value, tau)[0] if isinstance(tau, torch.Tensor) else value.detach())
    torch.testing.assert_close(slopes[0], (slopes[1] - slopes[2]) / 2e-6, rtol=1e-6, atol=0.0)


# Speed ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("square", [True, False])
def test_numbers_below_the_smallest_normal_one_reach_no_product(square):
    """On a CPU they made a step at τ = 0.01 many times as long."""
    tiny = torch.finfo(torch.float32).tiny
    weights = torch.tensor([[0.0, tiny / 8, 1.0], [tiny / 2, 0.0, math.nan], [0.0, 0.0, 0.0]])[: 2 + square]
    x = torch.eye(3) * 2**10
    laplacian = Laplacian(x[: 2 + square], None if square else x)
    laplacian.add(slice(0, len(weights)), weights)
    rows = laplacian.gradients()[0]
    assert rows[0].tolist() == [2**10, 0.0, -(2**10)]
    assert rows[1].isnan().any()  # nothing is hidden


@pytest.mark.parametrize(
    ("name", "labels", "rows"),
    [
        ("kl_ball", None, ([[1.0], [3e11]], [[2.0], [2e11]])),
        ("dcl_weighted", [0, 0], ([[1.5e6], [-3e5]], [[9e5], [-1e5]])),
    ],
)
def test_a_gradient_through_alpha_is_finite_for_long_rows(name, labels, rows):
    loss = AlphaCLLoss(name, l2_normalize=False, detach_alpha=False)
    views = [torch.tensor(view, requires_grad=True) for view in rows]
    value = loss(*views, labels=None if labels is None else torch.tensor(labels))
    value.backward()
    assert value.isfinite()
    assert all(view.grad.isfinite().all() for view in views)
    if labels is not None:  # one class: nobody has negatives
        assert not any(view.grad.any() for view in views)


# Found by the last read of the core ----------------------------------------------------------------------------------


def test_a_subclass_of_a_strategy_keeps_its_form():
    @dataclasses.dataclass(frozen=True)
    class Hard(Debiased):
        beta: float = 1.0

    @dataclasses.dataclass(frozen=True)
    class Doubled(Debiased):
        def __call__(self, *row):
            weights = super().__call__(*row)
            return weights._replace(neg=2 * weights.neg)

    assert Hard().separable
    assert AlphaCLLoss(Hard())(Z, Z_AUG) == AlphaCLLoss("debiased", beta=1.0)(Z, Z_AUG)
    assert not Doubled().separable
    assert not Doubled().pure


@pytest.mark.parametrize("options", [{}, {"solver": "operator"}])
def test_contrastive_pca_computes_in_its_own_dtype_under_autocast(options):
    x = torch.randn(40, 8, generator=torch.Generator().manual_seed(0))
    expected = contrastive_pca(x, x, "infonce", 2, **options).eigenvalues
    turns = take_turns(x, x, "infonce", 2, max_iter=3).eigenvalues
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.testing.assert_close(contrastive_pca(x, x, "infonce", 2, **options).eigenvalues, expected)
        torch.testing.assert_close(take_turns(x, x, "infonce", 2, max_iter=3).eigenvalues, turns)


def test_an_infinite_distance_is_no_negative():
    d_pos, d_neg = torch.rand(3, 1), torch.rand(3, 5)
    for name in ("infonce", "square", "debiased"):
        expected = acl.row_losses(name, d_pos, d_neg[:, :4])
        without = d_neg.index_fill(1, torch.tensor(4), math.inf).requires_grad_()
        losses = acl.row_losses(name, d_pos, without)
        torch.testing.assert_close(losses, expected)
        assert torch.autograd.grad(losses.sum(), without)[0].isfinite().all()


def test_the_ranks_of_an_error_are_those_of_all_processes(monkeypatch):
    monkeypatch.setattr(agreement, "numbers_of_ranks", lambda *_: (0, 1))
    monkeypatch.setattr(agreement, "global_ranks", lambda _: [4, 6])
    with pytest.raises(ValueError, match=r"got others on ranks \[6\]"):
        agreement.raise_together(None, Z.device, None)


def test_a_view_given_twice_is_warned_of_once():
    loss = AlphaCLLoss("infonce", gather_distributed=True)
    with pytest.warns(UserWarning, match="z_aug: got the tensor z itself") as warned:
        loss(Z, Z, labels=LABELS)
    assert len(warned) == 1


@pytest.mark.parametrize("negatives", ["", False, 0])
def test_negatives_that_are_nothing_are_no_default(negatives):
    with pytest.raises(ValueError, match="negatives: expected one of"):
        AlphaCLLoss(negatives=negatives)


def test_weighted_is_meant_for_the_negatives_of_its_shape():
    shape = DHEL(include_augs=False)
    weighted = AlphaCLLoss(Weighted(shape, InfoNCE()))
    assert (weighted.negatives, weighted.symmetric) == (shape.negatives, shape.symmetric) == ("same", False)


@pytest.mark.parametrize("name", ["dcl_weighted", "macl"])
def test_samples_that_all_count_nothing_leave_no_nan(name):
    z = Z.clone().requires_grad_()
    loss = AlphaCLLoss(name)(z, Z_AUG, sample_weight=torch.zeros(8))
    loss.backward()
    assert loss == 0
    assert not z.grad.any()


def test_the_own_negatives_of_other_samples_do_not_shrink_the_blocks(monkeypatch):
    size_of = blocks.automatic_block
    monkeypatch.setattr(blocks, "_AT_ONCE", 1024 * 2100)
    z = torch.zeros(1024, 4)
    sizes = []
    monkeypatch.setattr(blocks, "automatic_block", lambda *given: sizes.append(found := size_of(*given)) or found)
    AlphaCLLoss("infonce", symmetric=False)(z, z, extra_negatives=torch.zeros(1024, 8, 4))
    assert sizes == [1024]  # 2,048 rows, and 8 of its own with 4 columns each


def test_rows_that_are_anchors_and_negatives_are_pulled_once(monkeypatch):
    once, pulls = [], TorchTiles.pulls

    def counted(self, a, b, constants, *, b_moves):
        once.append(b.z is a.z)
        return pulls(self, a, b, constants, b_moves=b_moves)

    monkeypatch.setattr(TorchTiles, "pulls", counted)
    AlphaCLLoss("infonce", gather_distributed="ring")(Z.clone().requires_grad_(), Z_AUG)
    assert once == [True]
