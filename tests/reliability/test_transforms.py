"""torch.compile, deterministic algorithms and torch.func give what plain autograd gives."""

import copy
from collections.abc import Iterator

import pytest
import torch
from oracles import in_a_batch, random_views, relative_error
from reliability import record
from reliability.cases import default_strategy, every_name

from alphacl_plugins import AlphaCLLoss

BOTH = pytest.mark.parametrize("detach_alpha", [True, False])
LABELS = torch.tensor([0, 1, 0, 2, 1, 3])
QUEUE = torch.randn(5, 4, generator=torch.Generator().manual_seed(7), dtype=torch.float64)


@pytest.fixture
def deterministic() -> Iterator[None]:
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.mark.slow  # the loss's own tests compile each strategy without labels, queue and moving α
@every_name
def test_compiled_without_graph_breaks(name):
    """With all that a call can have: labels, a queue, and a gradient through α."""
    with record.case("torch.compile, fullgraph", name):
        torch._dynamo.reset()
        loss = AlphaCLLoss(default_strategy(name), detach_alpha=False)
        compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
        views = random_views(0, n=6, d=4)
        value, expected = (call(*views, labels=LABELS, queue=QUEUE) for call in (compiled, loss))
        assert relative_error(value, expected) < 1e-12
        for got, e in zip(torch.autograd.grad(value, views), torch.autograd.grad(expected, views), strict=True):
            assert relative_error(got, e) < 1e-12


@every_name
@BOTH
@pytest.mark.usefixtures("deterministic")
def test_deterministic_algorithms(name, detach_alpha):
    """Nothing is refused, and twice the same is the same to the last bit."""
    with record.case("torch.use_deterministic_algorithms", name):
        loss = AlphaCLLoss(default_strategy(name), detach_alpha=detach_alpha)
        views = random_views(1, n=6, d=4, dtype=torch.float32)
        runs = []
        for _ in range(2):
            value = loss(*views, labels=LABELS, queue=QUEUE)
            runs.append([value, *torch.autograd.grad(value, views)])
        assert all(torch.equal(a, b) for a, b in zip(*runs, strict=True))


@every_name
@BOTH
def test_func_grad_and_vmap_equal_a_loop(name, detach_alpha):
    """One problem by torch.func.grad, and a batch of independent ones by vmap; last_stats is good again afterwards."""
    with record.case("torch.func: grad, vmap", name):
        loss = AlphaCLLoss(default_strategy(name), detach_alpha=detach_alpha)
        problems = [random_views(seed, n=6, d=4) for seed in range(3)]
        stacked = [torch.stack([problem[view].detach() for problem in problems]) for view in (0, 1)]

        def value(z, z_aug):
            return loss(z, z_aug, labels=LABELS, queue=QUEUE)

        values = torch.vmap(value)(*stacked)
        gradients = torch.vmap(torch.func.grad(value, argnums=(0, 1)))(*stacked)
        for k, problem in enumerate(problems):
            expected = value(*problem)
            assert relative_error(values[k], expected) < 1e-12
            plain = torch.autograd.grad(expected, problem)
            alone = torch.func.grad(value, argnums=(0, 1))(*[view.detach() for view in problem])
            for view in (0, 1):
                assert relative_error(gradients[view][k], plain[view]) < 1e-11
                assert relative_error(alone[view], plain[view]) < 1e-11
        value(*problems[0])
        assert all(stat.isfinite() for stat in loss.last_stats.values())


@every_name
def test_jacobian_of_the_losses_of_the_anchors(name):
    with record.case("torch.func: jacrev, hessian", name):
        loss = AlphaCLLoss(default_strategy(name), reduction="none")
        z, z_aug = random_views(2, n=5, d=3)
        by_func = torch.func.jacrev(loss)(z.detach(), z_aug.detach())
        by_rows = torch.stack([torch.autograd.grad(row, z, retain_graph=True)[0] for row in loss(z, z_aug)])
        assert relative_error(by_func, by_rows) < 1e-11


@every_name
@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:FutureWarning")  # inside torch's forward mode
def test_hessian_of_the_loss_whose_alpha_moves(name):
    """By torch.func against autograd twice, and against differences of the gradient."""
    with record.case("torch.func: jacrev, hessian", name):
        loss = AlphaCLLoss(in_a_batch(default_strategy(name)), detach_alpha=False)
        z, z_aug = (view.detach() for view in random_views(3, n=4, d=3))
        by_func = torch.func.hessian(loss)(z, z_aug).reshape(12, 12)
        twice = torch.autograd.functional.hessian(lambda rows: loss(rows, z_aug), z).reshape(12, 12)
        assert relative_error(by_func, twice) < 1e-10
        step = 1e-5 * torch.eye(12, dtype=torch.float64).reshape(12, 4, 3)
        slope = torch.func.grad(loss)
        differences = torch.stack([(slope(z + s, z_aug) - slope(z - s, z_aug)).flatten() / 2e-5 for s in step])
        error, largest = (difference.detach().abs().max().item() for difference in (differences - by_func, by_func))
        assert error < 1e-6 * max(1.0, largest)


def test_a_loss_is_copied_after_a_transform():
    z, z_aug = (view.detach() for view in random_views(0, n=6, d=4))
    loss = AlphaCLLoss("infonce")
    torch.func.grad(lambda z: loss(z, z_aug))(z)
    assert copy.deepcopy(loss)(z, z_aug) == loss(z, z_aug)
