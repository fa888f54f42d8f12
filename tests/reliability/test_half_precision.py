"""float16 and bfloat16, pure and under autocast, and the training loop that goes with them."""

import pytest
import torch
from oracles import is_finite, relative_error
from reliability import record
from reliability.cases import default_strategy, every_name
from torch import Tensor, nn

from alphacl_plugins import AlphaCLLoss

HALVES = [torch.float16, torch.bfloat16]
every_half = pytest.mark.parametrize("dtype", HALVES, ids=["float16", "bfloat16"])


def inputs(step: int, n: int = 16, d: int = 12) -> tuple[Tensor, Tensor]:
    """Two noisy views of points in two clusters; the same samples in each step, with other noise."""
    centres = torch.randn(n, d, generator=torch.Generator().manual_seed(0))
    noise = torch.randn(2, n, d, generator=torch.Generator().manual_seed(step + 1))
    return centres + 0.3 * noise[0], centres + 0.3 * noise[1]


def network() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(12, 16), nn.Tanh(), nn.Linear(16, 8))


@every_name
@every_half
@pytest.mark.parametrize("l2_normalize", [True, False])
def test_pure_half_precision_is_float32_rounded(name, dtype, l2_normalize):
    """The loss is that of the same numbers in float32; the gradient is rounded once, when it comes back."""
    with record.case("pure half precision is float32, rounded", name):
        halves = [view.to(dtype).requires_grad_() for view in inputs(0)]
        singles = [view.detach().float().requires_grad_() for view in halves]
        loss = AlphaCLLoss(default_strategy(name), l2_normalize=l2_normalize)
        value, expected = loss(*halves), loss(*singles)
        assert value.dtype == torch.float32
        assert value.item() == expected.item()
        for got, e in zip(torch.autograd.grad(value, halves), torch.autograd.grad(expected, singles), strict=True):
            assert torch.equal(got, e.to(dtype))


@every_name
@every_half
@pytest.mark.parametrize("source", [*HALVES, torch.float32, torch.float64], ids=str)
def test_autocast_changes_neither_value_nor_gradient(name, dtype, source):
    with record.case("autocast changes nothing", name):
        views = [view.to(source).requires_grad_() for view in inputs(0)]
        loss = AlphaCLLoss(default_strategy(name))
        plain = loss(*views)
        with torch.autocast("cpu", dtype=dtype):
            cast = loss(*views)
        assert cast.dtype == plain.dtype
        assert relative_error(cast, plain) < 1e-6
        for got, e in zip(torch.autograd.grad(cast, views), torch.autograd.grad(plain, views), strict=True):
            assert relative_error(got.float(), e.float()) < (1e-2 if source in HALVES else 1e-5)


@every_name
@every_half
def test_a_training_loop_with_a_grad_scaler(name, dtype):
    """An inf in one step's input costs that step and halves the scale; nothing else notices, and the loss falls."""
    with record.case("training with autocast and GradScaler", name):
        model = network()
        criterion = AlphaCLLoss(default_strategy(name))
        optimizer = torch.optim.SGD(model.parameters(), lr=0.05 / getattr(criterion.strategy, "gamma", 1))  # circle: 80
        scaler = torch.amp.GradScaler("cpu", init_scale=2.0**8, growth_interval=6)
        scales = []

        def held_out() -> float:
            with torch.no_grad():
                return criterion(*map(model, inputs(100))).item()

        losses = [held_out()]
        for step in range(20):
            z, z_aug = inputs(step)
            before = [parameter.clone() for parameter in model.parameters()]
            with torch.autocast("cpu", dtype=dtype):
                h, h_aug = model(z), model(z_aug)
                if step == 10:
                    h = h * torch.inf
                loss = criterion(h, h_aug)
            optimizer.zero_grad()
            scaler.scale(loss).backward()
            scaler.step(optimizer)
            scaler.update()
            scales.append(scaler.get_scale())
            moved = any(not torch.equal(b, p) for b, p in zip(before, model.parameters(), strict=True))
            assert moved == (step != 10)
        losses.append(held_out())
        assert is_finite(*model.parameters())
        assert scales[5] == 2 * scales[4]  # six good steps
        assert scales[10] == scales[9] / 2  # the inf
        assert losses[-1] < losses[0]
