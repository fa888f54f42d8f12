"""What is the Triton kernels' own, on a CPU: run by test_softmax_kernel.py in a process with Triton's interpreter.

What they share with the other engines is in test_engines.py, which is run there too.
"""

import itertools
import subprocess
import sys

import numpy as np
import pytest
import torch
from batches import random_queue, random_weights, several_views
from oracles import random_views, relative_error, strategy_id
from processes import run_in_processes
from triton.runtime import interpreter

from alphacl_plugins import AlphaCLLoss
from alphacl_plugins.engines import triton_tiles
from alphacl_plugins.strategies import Direct, InfoNCE

ROWS, COLUMNS = (triton_tiles._TILE[side] for side in ("ROWS", "COLUMNS"))


def compare(strategy, views, queue=None, tolerance=1e-5, **options):
    """Losses and the gradient of a weighted sum, against float64 by autograd."""
    exact = [view.detach().double().requires_grad_() for view in views]
    double = None if queue is None else queue.double()
    got = AlphaCLLoss(strategy, reduction="none", block_size="kernel", **options)(*views, queue=queue)
    expected = AlphaCLLoss(strategy, reduction="none", block_size=None, **options)(*exact, queue=double)
    assert got.dtype == torch.float32
    assert relative_error(got.double(), expected) < tolerance
    weights = random_weights(len(expected))
    gradient = torch.autograd.grad((weights.float() * got).sum(), views)
    exact_gradient = torch.autograd.grad((weights * expected).sum(), exact)
    assert relative_error(torch.stack(gradient).double(), torch.stack(exact_gradient)) < tolerance


@pytest.mark.parametrize("n", [2, 1 + COLUMNS // 2, ROWS // 2, ROWS + 3])
@pytest.mark.parametrize("d", [1, 16, 130])  # beyond 128 a row is pulled in parts
def test_sizes_that_do_not_fill_a_tile(n, d):
    compare(InfoNCE(0.2), random_views(0, n, d, torch.float32))


@pytest.mark.parametrize("programs", [1, 3, 1000])
@pytest.mark.parametrize("strategy", [InfoNCE(0.1), Direct(0.1)], ids=strategy_id)  # with a value, and without
def test_columns_shared_out_are_the_same(programs, strategy, monkeypatch):
    """Each program sees all columns, some, or a single tile."""
    monkeypatch.setattr(triton_tiles, "_PROGRAMS", programs)
    views = several_views(2, ROWS + 1, 4, dtype=torch.float32)
    compare(strategy, views, random_queue(3, 4, dtype=torch.float32), negatives="cross")


def test_bfloat16_is_computed_in_float32():
    views = several_views(2, 9, 20, dtype=torch.bfloat16)
    queue = random_queue(5, 20, dtype=torch.bfloat16)
    compare(InfoNCE(0.2), views, queue, tolerance=4e-3)  # gradients are rounded to bfloat16


@pytest.mark.filterwarnings("ignore:overflow:RuntimeWarning")  # NumPy's, which the interpreter computes with
def test_distances_that_overflow_leave_the_gradient_finite():
    views = [(1e12 * view.detach()).requires_grad_() for view in random_views(0, 6, 4, torch.float32)]
    loss = AlphaCLLoss(Direct(0.5), block_size="kernel", l2_normalize=False)(*views)
    assert torch.isfinite(torch.stack(torch.autograd.grad(loss, views))).all()


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # NumPy's
def test_a_negative_beyond_float32_is_not_taken_for_an_excluded_one():
    z, far = torch.full((2, 1), 0.5), torch.tensor([[1e20]])
    loss = AlphaCLLoss("infonce", block_size="kernel", l2_normalize=False)
    assert loss(z, z, queue=far / 1e20).isfinite()
    assert not loss(z, z, queue=far).isfinite()


def check_a_rank(rank, world):
    """Anchors are the samples of this rank, negatives those of all: as in one process with the whole batch."""
    whole = [torch.cat(views).detach() for views in zip(*(random_views(r, 3, 4) for r in range(world)), strict=True)]
    whole, own = [view.requires_grad_() for view in whole], slice(3 * rank, 3 * rank + 3)
    for negatives, queue in itertools.product(("both", "cross"), (None, random_queue(5, 4))):
        exact = AlphaCLLoss(InfoNCE(0.2), negatives=negatives, reduction="none", block_size="autograd")
        losses = exact(*whole, queue=queue)
        gradient = world * torch.stack(torch.autograd.grad(losses.mean(), whole))[:, own]
        losses = losses.view(2, -1)[:, own]
        for gather, reduction in itertools.product((True, "ring"), ("mean", "none")):
            options = {"block_size": "kernel", "gather_distributed": gather, "reduction": reduction}
            views = [view.detach()[own].float().requires_grad_() for view in whole]
            loss = AlphaCLLoss(InfoNCE(0.2), negatives=negatives, **options)
            got = loss(*views, queue=None if queue is None else queue.float())
            assert got.dtype == torch.float32
            assert relative_error(got.double(), losses.mean() if reduction == "mean" else losses.flatten()) < 1e-5
            found = torch.stack(torch.autograd.grad(got.mean(), views))
            assert relative_error(found.double(), gradient) < 1e-5, (negatives, gather, reduction)


def test_a_rank_compares_its_samples_with_those_of_all(tmp_path):
    run_in_processes(2, tmp_path, check_a_rank)


def test_both_of_torchs_settings_are_read():
    """In a process of its own: torch forbids the old setting after the new one."""
    code = (
        "import torch; from alphacl_plugins.engines.triton_tiles import _precision as p; found = [p()]\n"
        "for old in ('high', 'medium'):\n    torch.set_float32_matmul_precision(old); found += [p()]\n"
        "torch.set_float32_matmul_precision('highest')\n"
        "if hasattr(torch.backends.cuda.matmul, 'fp32_precision'):\n"
        "    torch.backends.cuda.matmul.fp32_precision = 'tf32'\n"
        "    assert p() == 'tf32'\n"
        "print(*found)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["tf32x3", "tf32x3", "tf32"]


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
    views = [(view.detach() @ mixture).requires_grad_() for view in random_views(0, 64, rank, torch.float32)]
    exact = [view.detach().double().requires_grad_() for view in views]
    got, expected = (
        torch.autograd.grad(AlphaCLLoss(InfoNCE(tau), block_size=block)(*batch), batch)
        for block, batch in (("kernel", views), (None, exact))
    )
    error = relative_error(torch.stack(got).double(), torch.stack(expected))
    print(f"precision {precision}, tau {tau}, rank {rank}: {error:.1e}")
    assert error < bound
    assert (error > 1e-5) == (precision == "medium")  # the option is in force
