"""The Triton kernels on a CPU: run by test_softmax_kernel.py in a process with Triton's interpreter.

The oracle is float64 autograd through the whole matrix, as for the blocks.
"""

import itertools
import math
import subprocess
import sys

import numpy as np
import pytest
import torch
from oracles import relative_error, strategy_id
from triton.runtime import interpreter

from alphacl_plugins import AlphaCLLoss, strategies
from alphacl_plugins.strategies import DHEL, Direct, Entropy, InfoNCE, SoftTriplet, Tempered
from alphacl_plugins.streaming import softmax_kernel

ROWS, COLUMNS = softmax_kernel._TILE["ROWS"], softmax_kernel._TILE["COLUMNS"]
STRATEGIES = [
    InfoNCE(0.2),
    InfoNCE(0.1, eps=0.0),
    Entropy(0.3),
    Direct(0.3),
    Direct(0.3, p=1.0),
    Direct(0.3, p=3.0, normalize=False),
    DHEL(0.2),
    DHEL(0.2, include_augs=False),
    SoftTriplet(0.3, eps=0.7),
    strategies.MINE(),
    strategies.LiftedStructured(),
    Tempered(InfoNCE(0.2)),
    Tempered(Direct(0.3, p=3.0), learnable=False),
]
every_strategy = pytest.mark.parametrize("strategy", STRATEGIES, ids=strategy_id)


def random_batch(n_views=2, n=5, d=3, queued=0, dtype=torch.float32, seed=0):
    g = torch.Generator().manual_seed(seed)
    z = torch.randn(n, d, generator=g)
    views = [(z + 0.5 * torch.randn(n, d, generator=g)).to(dtype).requires_grad_() for _ in range(n_views)]
    return views, torch.randn(queued, d, generator=g).to(dtype) if queued else None


def compare(strategy, views, queue=None, tolerance=1e-5, **options):
    """Value, gradient and statistics, reduced and not, against float64."""
    exact = [view.detach().double().requires_grad_() for view in views]
    double = None if queue is None else queue.double()
    reference = AlphaCLLoss(strategy, reduction="none", block_size=None, **options)
    expected = reference(*exact, queue=double)
    w = torch.rand(len(expected), generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    for reduction, weights in {"mean": torch.full_like(w, 1 / len(w)), "none": w}.items():
        loss = AlphaCLLoss(strategy, reduction=reduction, block_size="kernel", **options)
        got = loss(*views, queue=queue)
        error = (got - (expected.mean() if reduction == "mean" else expected)).detach().abs().max()
        assert float(error) < tolerance * float(expected.detach().abs().max())
        g = torch.autograd.grad(got if reduction == "mean" else (weights.float() * got).sum(), views)
        e = torch.autograd.grad((weights * expected).sum(), exact, retain_graph=True)
        assert relative_error(torch.stack(g).double(), torch.stack(e)) < tolerance
        for name, stat in reference.last_stats.items():
            assert float((loss.last_stats[name] - stat).abs()) <= tolerance * max(float(stat.abs()), 1.0), name


@every_strategy
def test_kernel_is_materialised(strategy):
    views, _ = random_batch(n=9, d=5)
    compare(strategy, views, negatives="both", symmetric=True)


OPTIONS = [
    (n_views, negatives, symmetric, queued)
    for n_views, negatives, symmetric, queued in itertools.product(
        (2, 3), ("both", "same", "cross", "queue"), (True, False), (0, 7)
    )
    if queued or negatives != "queue"
]


@pytest.mark.parametrize("combination", OPTIONS, ids=str)
@pytest.mark.parametrize("strategy", [InfoNCE(0.2), Direct(0.3)], ids=strategy_id)
def test_every_option(strategy, combination):
    n_views, negatives, symmetric, queued = combination
    compare(strategy, *random_batch(n_views, queued=queued), negatives=negatives, symmetric=symmetric)


@pytest.mark.parametrize("n", [2, 1 + COLUMNS // 2, ROWS // 2, ROWS + 3])
@pytest.mark.parametrize("d", [1, 16, 130])  # beyond 128 a row is pulled in parts
def test_sizes_that_do_not_fill_a_tile(n, d):
    compare(InfoNCE(0.2), random_batch(n=n, d=d)[0])


@pytest.mark.parametrize("programs", [1, 3, 1000])
@pytest.mark.parametrize("strategy", [InfoNCE(0.1), Direct(0.1)], ids=strategy_id)  # with a value, and without
def test_candidates_shared_out_are_the_same(programs, strategy, monkeypatch):
    """Each program sees all candidates, some, or a single tile."""
    monkeypatch.setattr(softmax_kernel, "_PROGRAMS", programs)
    compare(strategy, *random_batch(n=ROWS + 1, d=4, queued=3), negatives="cross")


def test_a_queue_alone_serves_one_sample():
    compare(InfoNCE(0.2), *random_batch(n=1, queued=40), negatives="queue", symmetric=False)


def test_bfloat16_is_computed_in_float32():
    views, queue = random_batch(n=9, d=20, queued=5, dtype=torch.bfloat16)
    loss = AlphaCLLoss("infonce", block_size="kernel")(*views, queue=queue)
    assert loss.dtype == torch.float32
    compare(InfoNCE(0.2), views, queue, tolerance=4e-3)  # gradients are rounded to bfloat16


def test_a_sample_is_no_candidate_of_itself():
    """At this temperature a pair of equal rows would outweigh all others by e^1000."""
    loss = AlphaCLLoss(Entropy(1e-3), block_size="kernel")
    value = loss(
        torch.eye(4), torch.eye(4)
    )  # D = 1 for each of six candidates, 0 for the sample itself and its positive
    assert value.item() == pytest.approx(1e-3 * math.log(6) - 1, abs=1e-6)


@pytest.mark.parametrize("tau", [1e-3, 1e3])
@pytest.mark.parametrize("strategy", [InfoNCE, Direct])
def test_extreme_temperatures_duplicates_and_zero_rows(strategy, tau):
    (z, z_aug), _ = random_batch(n=6, d=4)
    rows = torch.cat([z.detach()[:4], z.detach()[:1], torch.zeros(1, 4)])
    compare(strategy(tau), [rows.requires_grad_(), z_aug], tolerance=1e-5 if tau > 1 else 1e-3)


@pytest.mark.filterwarnings("ignore:overflow:RuntimeWarning")  # NumPy's, which the interpreter computes with
def test_far_from_the_origin_and_not_normalised():
    views = [(1e3 + view.detach()).requires_grad_() for view in random_batch(n=6, d=4)[0]]
    compare(InfoNCE(0.5), views, tolerance=1e-4, l2_normalize=False)
    huge = [(1e12 * view.detach()).requires_grad_() for view in random_batch(n=6, d=4)[0]]
    loss = AlphaCLLoss(Direct(0.5), block_size="kernel", l2_normalize=False)(*huge)  # D² overflows
    assert torch.isfinite(torch.stack(torch.autograd.grad(loss, huge))).all()


def test_what_is_not_finite_does_not_pass_for_a_loss():
    views, queue = random_batch(n=6, d=4, queued=3)
    queue[1, 2] = torch.nan  # of the candidates alone
    for strategy in (InfoNCE(0.2), Direct(0.3), Direct(0.3, p=3.0)):
        loss = AlphaCLLoss(strategy, block_size="kernel", reduction="none", negatives="queue")(*views, queue=queue)
        assert loss.isnan().all()
        assert all(g.isnan().any() for g in torch.autograd.grad(loss.sum(), views))


@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_a_temperature_learns_the_same(reduction):
    views, _ = random_batch(n=6, d=4)
    found = []
    for block in (None, "kernel"):
        module = Tempered(InfoNCE(0.2))
        loss = AlphaCLLoss(module, reduction=reduction, block_size=block)(*views).mean()
        found.append(torch.autograd.grad(loss, module.log_tau)[0])
    assert relative_error(found[1], found[0]) < 1e-5


@pytest.mark.parametrize("first", [0, 4])
def test_a_rank_compares_its_samples_with_those_of_all(first):
    """As with gather_distributed=True: anchors are two or three of the samples, candidates all."""
    from alphacl_plugins.streaming import Stream

    stacked = torch.stack(random_batch(n=7, d=4)[0]).detach()
    own = range(first, min(first + 4, 7))
    results = []
    for block, dtype in (("kernel", torch.float32), (2, torch.float64)):
        stream = Stream(InfoNCE(0.2), "both", True, True, None, None, own, block)
        results.append(stream.outcome(stacked.to(dtype)))
    assert relative_error(results[0].gradient.double(), results[1].gradient) < 1e-5
    assert relative_error(results[0].value.double(), results[1].value) < 1e-5


def test_both_of_torchs_settings_are_read():
    """In a process of its own: torch forbids the old setting after the new one."""
    code = (
        "import torch; from alphacl_plugins.streaming.softmax_kernel import _precision as p; found = [p()]\n"
        "for old in ('high', 'medium'):\n    torch.set_float32_matmul_precision(old); found += [p()]\n"
        "torch.set_float32_matmul_precision('highest')\n"
        "if hasattr(torch.backends.cuda.matmul, 'fp32_precision'):\n"
        "    torch.backends.cuda.matmul.fp32_precision = 'tf32'\n"
        "    assert p() == 'tf32'\n"
        "print(*found)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["ieee", "tf32x3", "tf32"]


def in_tf32(x, nearest=True):
    """The 10 bits of mantissa that a tensor core reads of float32: of the nearest such number, or just the first."""
    bits = x.view(np.uint32)
    return ((bits + 0x1000 * nearest) & np.uint32(0xFFFFE000)).view(np.float32)


def as_a_tensor_core(builder, a, b, c, input_precision, *_):
    """A product as compiled for a GPU: TF32x3 rounds, and plain TF32 leaves the last bits to be cut off."""
    a, b = (np.ascontiguousarray(factor.data) for factor in (a, b))
    if input_precision.name == "TF32":
        product = in_tf32(a, nearest=False) @ in_tf32(b, nearest=False)
    elif input_precision.name == "TF32x3":
        high_a, high_b = in_tf32(a), in_tf32(b)
        product = high_a @ high_b + high_a @ in_tf32(b - high_b) + in_tf32(a - high_a) @ high_b
    else:
        product = a @ b
    return interpreter.TensorHandle(product + c.data, c.dtype.scalar)


@pytest.mark.parametrize(("precision", "bound"), [("highest", 2e-6), ("high", 2e-6), ("medium", 1e-3)])
@pytest.mark.parametrize("tau", [0.05, 0.5])
@pytest.mark.parametrize("rank", [3, 128])  # of the embeddings: where candidates are close, rounding weighs more
def test_the_stated_error_of_each_precision(precision, bound, tau, rank, monkeypatch):
    """Of the gradient, for τ >= 0.05; docs/speed.md states these bounds."""
    monkeypatch.setattr(interpreter.InterpreterBuilder, "create_dot", as_a_tensor_core)
    monkeypatch.setattr(torch, "get_float32_matmul_precision", lambda: precision)
    mixture = torch.randn(rank, 128, generator=torch.Generator().manual_seed(2))
    views = [(view.detach() @ mixture).requires_grad_() for view in random_batch(n=ROWS, d=rank)[0]]
    exact = [view.detach().double().requires_grad_() for view in views]
    got, expected = (
        torch.autograd.grad(AlphaCLLoss(InfoNCE(tau), block_size=block)(*batch), batch)
        for block, batch in (("kernel", views), (None, exact))
    )
    error = relative_error(torch.stack(got).double(), torch.stack(expected))
    print(f"precision {precision}, tau {tau}, rank {rank}: {error:.1e}")
    assert error < bound
    assert (error > 1e-5) == (precision == "medium")  # the option is in force
