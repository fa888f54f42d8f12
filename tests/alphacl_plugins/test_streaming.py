"""Block by block: the value and gradient of the materialised path, in memory that grows with N."""

import itertools

import pytest
import torch
from oracles import ALL_STRATEGIES, random_views, relative_error, strategy_id

from alphacl_plugins import AlphaCLLoss, PairWeights, build_strategy, strategies
from alphacl_plugins.strategies import InfoNCE, Inverse, Square, Tempered
from live_bytes import LiveBytes
from loss_measurements import Case, measure_memory

every_strategy = pytest.mark.parametrize("strategy", ALL_STRATEGIES, ids=strategy_id)
NEGATIVES = ("both", "same", "cross", "queue")
LABELS = {
    "none": None,
    "unequal": torch.tensor([5, -1, 5, 7, 5]),
    "all equal": torch.tensor([4, 4, 4, 4, 4]),  # no candidates but the queue
}
BLOCKS = (1, 7, "M", 100)
OPTIONS = [
    (views, labels, negatives, symmetric, queued)
    for views, labels, negatives, symmetric, queued in itertools.product(
        (2, 3), LABELS, NEGATIVES, (True, False), (True, False)
    )
    if queued or negatives != "queue"
]


def random_batch(n_views, labels="none", queued=False, n=5, d=6, dtype=torch.float64):
    """In so many dimensions no two rows are so close that float32's rounding of their distance is what one sees."""
    g = torch.Generator().manual_seed(0)
    z = torch.randn(n, d, generator=g, dtype=torch.float64)
    views = [z + 0.5 * torch.randn(n, d, generator=g, dtype=torch.float64) for _ in range(n_views)]
    queue = torch.randn(7, d, generator=g, dtype=torch.float64).to(dtype) if queued else None
    return [view.to(dtype).requires_grad_() for view in views], {"labels": LABELS[labels], "queue": queue}


def compare(strategy, combination, dtype=torch.float64, blocks=BLOCKS):
    """Values, gradients and statistics, "mean" and "none", against autograd through the whole matrix in float64."""
    n_views, labels, negatives, symmetric, queued = combination
    views, options = random_batch(n_views, labels, queued, dtype=dtype)
    anchors = 5 * n_views if symmetric else 5
    weights = torch.rand(anchors, generator=torch.Generator().manual_seed(1)).to(dtype)
    kind = {"negatives": negatives, "symmetric": symmetric}
    reference = AlphaCLLoss(strategy, reduction="none", block_size=None, **kind)
    queue = None if options["queue"] is None else options["queue"].double()
    expected = reference(*(view.double() for view in views), labels=options["labels"], queue=queue)
    sums = {"mean": torch.full_like(weights, 1 / anchors), "none": weights}
    for block, (reduction, w) in itertools.product(blocks, sums.items()):
        loss = AlphaCLLoss(strategy, reduction=reduction, block_size=anchors if block == "M" else block, **kind)
        got = loss(*views, **options)
        assert_near(got, expected.mean() if reduction == "mean" else expected, dtype, expected)
        e = torch.autograd.grad((w * expected).sum(), views, retain_graph=True)
        g = torch.autograd.grad(got if reduction == "mean" else (w * got).sum(), views)
        assert_near(torch.stack(g), torch.stack(e), dtype, torch.stack(e))
        for name, stat in reference.last_stats.items():
            assert_near(loss.last_stats[name], stat, dtype, stat.clamp_min(1))


def assert_near(got, expected, dtype, scale):
    tolerance = 1e-12 if dtype == torch.float64 else 1e-5
    assert float((got - expected).detach().abs().max()) <= tolerance * float(scale.detach().abs().max())


@every_strategy
@pytest.mark.parametrize(
    "combination",
    [(3, "unequal", "both", True, True), (2, "none", "same", True, False), (2, "none", "both", True, False)],
    ids=str,
)
def test_streamed_is_materialised(strategy, combination):
    compare(strategy, combination)


@every_strategy
def test_streamed_is_materialised_in_float32(strategy):
    compare(strategy, (2, "none", "both", True, True), torch.float32, blocks=(3,))


@pytest.mark.parametrize("combination", OPTIONS, ids=lambda c: "-".join(map(str, c)))
@pytest.mark.parametrize("strategy", [InfoNCE(0.2), Square(0.3)], ids=strategy_id)  # factored, and not
def test_every_option(strategy, combination):
    compare(strategy, combination, blocks=(3, "M"))


@pytest.mark.slow
@every_strategy
@pytest.mark.parametrize("combination", OPTIONS, ids=lambda c: "-".join(map(str, c)))
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_every_combination(strategy, combination, dtype):
    compare(strategy, combination, dtype)


def margin(d2_pos, d2_neg):
    return PairWeights((d2_neg < d2_pos[:, None] + 0.5).to(d2_neg.dtype))


def test_a_users_function_is_streamed_too():
    compare(margin, (2, "none", "both", True, False))
    compare(margin, (3, "unequal", "cross", True, True))


@every_strategy
def test_gradcheck_with_alpha_frozen_at_the_point(strategy):
    """With the weights of the point as a constant strategy, value and gradient are one function."""
    views, _ = random_batch(2)
    weights = AlphaCLLoss(strategy, negatives="both", symmetric=True).pair_weights(*views)
    turn = itertools.count()

    def constant(d2_pos, d2_neg):  # asked for 4, 4 and 2 anchors in turn
        start = 4 * (next(turn) % 3)
        return PairWeights(weights.neg[start : start + 4], weights.pos[start : start + 4])

    loss = AlphaCLLoss(constant, block_size=4)
    assert torch.autograd.gradcheck(loss, views)
    own = AlphaCLLoss(strategy, negatives="both", symmetric=True, block_size=4)
    for got, expected in zip(
        torch.autograd.grad(own(*views), views), torch.autograd.grad(loss(*views), views), strict=True
    ):
        assert relative_error(got, expected) < 1e-12


@pytest.mark.parametrize("strategy", [InfoNCE(0.2), Square(0.4), Inverse(0.3), strategies.DHEL(0.2)], ids=strategy_id)
@pytest.mark.parametrize("labels", LABELS)
@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_a_temperature_learns_the_same(strategy, labels, reduction):
    views, options = random_batch(3, labels, queued=True)
    gradients = []
    for detour, block in (("none", None), (reduction, 4)):
        module = Tempered(strategy).double()
        loss = AlphaCLLoss(module, reduction=detour, block_size=block)(*views, **options).mean()
        gradients.append(torch.autograd.grad(loss, [module.log_tau, *views]))
    for got, expected in zip(gradients[1], gradients[0], strict=True):
        assert relative_error(got, expected) < 1e-11


class Learning(torch.nn.Module):
    """A strategy of a user's own whose value has a gradient for a parameter."""

    def __init__(self):
        super().__init__()
        self.scale = torch.nn.Parameter(torch.tensor(1.5, dtype=torch.float64))

    def forward(self, d2_pos, d2_neg):
        return PairWeights(torch.softmax(-self.scale * d2_neg, dim=1), value=self.scale * d2_pos)


@pytest.mark.parametrize("block", [1, 4, None])
def test_parameters_of_a_users_strategy_learn_the_same(block):
    views, _ = random_batch(2)
    module = Learning()
    inputs = [module.scale, *views]
    expected = torch.autograd.grad(AlphaCLLoss(module, reduction="none", block_size=None)(*views).mean(), inputs)
    for got, e in zip(
        torch.autograd.grad(AlphaCLLoss(module, block_size=block)(*views), inputs), expected, strict=True
    ):
        assert relative_error(got, e) < 1e-12


@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_one_tensor_in_both_places_and_one_without_gradient(reduction):
    (z, z_aug), _ = random_batch(2)
    for views in ((z, z), (z, z_aug.detach()), (z.detach(), z_aug)):
        leaf = next(view for view in views if view.requires_grad)
        got, expected = (
            torch.autograd.grad(AlphaCLLoss(reduction=reduction, block_size=block)(*views).sum(), leaf)[0]
            for block in (3, None)
        )
        assert relative_error(got, expected) < 1e-12
    assert not AlphaCLLoss(block_size=3)(z.detach(), z_aug.detach()).requires_grad
    with torch.no_grad():
        assert not AlphaCLLoss(block_size=3)(z, z_aug).requires_grad


@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_a_graph_that_is_retained_serves_twice(reduction):
    views, _ = random_batch(2)
    loss = AlphaCLLoss(reduction=reduction, block_size=3)(*views).sum()
    first = torch.autograd.grad(loss, views, retain_graph=True)
    assert all(torch.equal(a, b) for a, b in zip(first, torch.autograd.grad(2 * loss / 2, views), strict=True))


@pytest.mark.parametrize("reduction", ["mean", "none"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_scaled_loss_of_half_precision_keeps_small_gradients(dtype, reduction):
    """As a GradScaler does: what float16 would round to 0 survives if it is multiplied before it is rounded."""
    (z, z_aug), _ = random_batch(2, n=6, d=4, dtype=dtype)
    scale = 2.0**14
    exact = AlphaCLLoss(reduction="none", block_size=None)(z.double(), z_aug.double()).mean()
    expected = scale * 1e-6 * torch.autograd.grad(exact, z)[0].double()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = AlphaCLLoss(reduction=reduction, block_size=5)(z, z_aug).mean()
    assert loss.dtype == torch.float32
    got = torch.autograd.grad(scale * 1e-6 * loss, z)[0]
    assert got.dtype == dtype
    assert relative_error(got.double(), expected) < 0.01


@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_compiled_without_graph_breaks_it_is_the_same(reduction):
    torch._dynamo.reset()
    views, options = random_batch(3, "unequal", queued=True)
    loss = AlphaCLLoss("direct", reduction=reduction, block_size=8)
    expected = torch.autograd.grad(loss(*views, **options).sum(), views)
    compiled = torch.compile(loss, backend="aot_eager", fullgraph=True)
    for got, e in zip(torch.autograd.grad(compiled(*views, **options).sum(), views), expected, strict=True):
        assert relative_error(got, e) < 1e-12


@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_the_gradient_cannot_be_differentiated_again(reduction):
    views, _ = random_batch(2)
    loss = AlphaCLLoss(reduction=reduction, block_size=3)(*views).square().sum()
    gradient = torch.autograd.grad(loss, views, create_graph=True)[0]
    with pytest.raises(RuntimeError, match=r"block_size: expected None for .* differentiated again"):
        gradient.sum().backward()


@pytest.mark.parametrize("name", ["infonce", "square", "inverse"])
@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_what_is_saved_for_backward_grows_with_the_batch(name, reduction):
    saved = []
    for n in (64, 128):
        views, _ = random_batch(2, n=n, d=8)
        sizes = [0]

        def pack(tensor, sizes=sizes):
            sizes[0] += tensor.nbytes
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            AlphaCLLoss(name, reduction=reduction, block_size=16)(*views)
        assert 0 < sizes[0] <= 4 * 2 * n * 8 * 8  # four arrays like the embeddings
        saved.append(sizes[0])
    assert saved[1] <= 2.05 * saved[0]


@pytest.mark.parametrize("name", ["infonce", "square", "inverse"])
@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_memory_grows_with_the_batch_and_not_with_its_square(name, reduction):
    peaks = []
    for n, block in ((256, 16), (512, 8)):  # blocks of one size
        views, _ = random_batch(2, n=n, d=32)
        with LiveBytes() as memory:
            AlphaCLLoss(name, reduction=reduction, block_size=block)(*views).sum().backward()
        peaks.append(memory.peak)
    assert peaks[1] < 2.1 * peaks[0]
    assert peaks[1] < 1024 * 1024 * 8  # one matrix


def test_auto_streams_where_the_matrix_is_large():
    views, _ = random_batch(2, n=1200, d=4, dtype=torch.float32)
    with LiveBytes() as memory:
        AlphaCLLoss("infonce")(*views).backward()
    assert memory.peak < 2400 * 2400 * 4


def test_far_from_the_origin_the_gradient_keeps_its_precision():
    views, _ = random_batch(2, n=6, d=4)
    far = [(1e3 + view.detach()).float().requires_grad_() for view in views]
    exact = [view.detach().double().requires_grad_() for view in far]
    loss = AlphaCLLoss("infonce", l2_normalize=False, block_size=5)
    expected = torch.autograd.grad(loss(*exact), exact)
    for got, e in zip(torch.autograd.grad(loss(*far), far), expected, strict=True):
        assert relative_error(got, e) < 1e-5


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (
            lambda: AlphaCLLoss(block_size=0),
            ValueError,
            r'block_size: expected "auto", .*, "kernel" or None, got 0',
        ),
        (lambda: AlphaCLLoss(block_size="big"), TypeError, r"block_size: expected .* or None, got 'big'"),
        (lambda: AlphaCLLoss(block_size=2.0), TypeError, r"block_size: expected .* or None, got 2.0"),
        (lambda: AlphaCLLoss(block_size=True), TypeError, r"block_size: expected .* or None, got True"),
        (
            lambda: AlphaCLLoss(block_size=8, detach_alpha=False),
            ValueError,
            r'block_size: expected "auto" or None with detach_alpha=False, .* stays on the materialised path, got 8',
        ),
        (
            lambda: AlphaCLLoss(block_size=8, gather_distributed="ring"),
            ValueError,
            r'block_size: expected "auto" or None with gather_distributed="ring", .* got 8',
        ),
    ],
)
def test_errors_say_what_was_expected(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_a_strategy_may_not_be_called_by_the_name():
    with pytest.raises(TypeError, match="block_size"):
        build_strategy("direct", block_size=4)


def test_views_of_different_precision_mix():
    (z, z_aug), _ = random_batch(2)
    mixed = [z.detach().float().requires_grad_(), z_aug]
    got = torch.autograd.grad(AlphaCLLoss(block_size=3)(*mixed), mixed)
    expected = torch.autograd.grad(AlphaCLLoss(block_size=3)(z, z_aug), (z, z_aug))
    assert [g.dtype for g in got] == [torch.float32, torch.float64]
    assert all(relative_error(g.double(), e) < 1e-6 for g, e in zip(got, expected, strict=True))


def test_normalisation_is_that_of_autograd():
    z, z_aug = random_views(0, n=5, d=3)
    scaled = [(torch.arange(1, 6).double()[:, None] * view).detach().requires_grad_() for view in (z, z_aug)]
    got, expected = (torch.autograd.grad(AlphaCLLoss(block_size=block)(*scaled), scaled) for block in ("auto", None))
    assert all(relative_error(g, e) < 1e-12 for g, e in zip(got, expected, strict=True))


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["direct", "inverse"])
def test_blocks_leave_no_holes_in_memory(strategy):
    """Small tensors that stay, between large ones that go, once took 1 and 2 GiB here instead of 0.1."""
    measured = measure_memory(Case(strategy, 8192, 128, "cpu", 1, 8.0, "highest"), seconds=60)
    assert measured["extra_bytes"] < 400 * 2**20, measured
