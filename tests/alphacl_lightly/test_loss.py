"""The lightly adapter equals lightly's own losses, in value and gradient, the memory bank included."""

import copy
import dataclasses
import io
import math

import pytest
import torch
from lightly.loss import DCLLoss, NTXentLoss
from oracles import random_views, relative_error
from processes import run_in_processes
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

import alphacl_plugins
from alphacl_lightly import AlphaCLLoss
from alphacl_plugins import strategies

PEERS = {"infonce": NTXentLoss, "entropy": DCLLoss}


def draw(seed):
    """A random shape and temperature."""
    g = torch.Generator().manual_seed(seed)
    n, d = int(torch.randint(2, 40, (), generator=g)), int(torch.randint(2, 70, (), generator=g))
    return n, d, float(10 ** (2 * torch.rand((), generator=g) - 1.5))


def several_views(seed, n, d, views):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(n, d, generator=generator, dtype=torch.float64).requires_grad_() for _ in range(views)]


@pytest.mark.parametrize("name", PEERS)
@pytest.mark.parametrize("seed", range(20))
def test_value_and_gradient_are_tau_times_lightlys(name, seed):
    n, d, tau = draw(seed)
    views = random_views(seed, n, d)
    ours, theirs = AlphaCLLoss(name, tau=tau)(*views), tau * PEERS[name](tau)(*views)
    assert relative_error(ours, theirs) < 1e-12
    for g, e in zip(torch.autograd.grad(ours, views), torch.autograd.grad(theirs, views), strict=True):
        assert relative_error(g, e) < 1e-10


@pytest.mark.parametrize("name", PEERS)
def test_in_the_usual_scale_it_is_lightlys_loss_itself(name):
    views = random_views(0, n=9, d=5)
    ours, theirs = AlphaCLLoss(name, tau=0.2, scale="ntxent")(*views), PEERS[name](0.2)(*views)
    assert relative_error(ours, theirs) < 1e-12
    for g, e in zip(torch.autograd.grad(ours, views), torch.autograd.grad(theirs, views), strict=True):
        assert relative_error(g, e) < 1e-10


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("rows", [2, 4, 7, 16, 64])
def test_the_memory_bank_is_lightlys_over_several_steps(rows, seed):
    n, d, tau = draw(seed)
    ours = AlphaCLLoss("infonce", tau=tau, memory_bank_size=(rows, d)).double()
    theirs = NTXentLoss(tau, (rows, d)).double()
    rows_at_first = torch.randn(rows, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    for bank in (ours.memory_bank.embeddings, theirs.memory_bank.bank):  # the same rows, of length 1 in float64 too
        bank.copy_(nn.functional.normalize(rows_at_first))
    for step in range(6):
        views = random_views(100 * seed + step, n, d)
        if step == 3:  # without a gradient, as in validation, nothing enters the bank
            views = tuple(view.detach() for view in views)
        loss, expected = ours(*views), tau * theirs(*views)
        assert relative_error(loss, expected) < 1e-11
        torch.testing.assert_close(ours.memory_bank.embeddings, theirs.memory_bank.bank)
        if step != 3:
            for g, e in zip(torch.autograd.grad(loss, views), torch.autograd.grad(expected, views), strict=True):
                assert relative_error(g, e) < 1e-9


def test_the_bank_holds_the_latest_keys():
    loss = AlphaCLLoss("infonce", memory_bank_size=(8, 3))
    z, z_aug = random_views(0, n=4, d=3)
    loss(z, z_aug)
    torch.testing.assert_close(loss.memory_bank.embeddings[:4].double(), torch.nn.functional.normalize(z_aug.detach()))


def test_an_int_bank_takes_its_width_from_the_first_batch():
    loss = AlphaCLLoss("direct", memory_bank_size=8)
    assert loss.memory_bank.embeddings.shape == (8, 0)
    loss(*random_views(0, n=4, d=3))
    assert loss.memory_bank.embeddings.shape == (8, 3)
    assert loss.negatives == "queue"
    assert loss.symmetric is False


def test_a_bank_beside_the_batch_when_asked():
    loss = AlphaCLLoss("direct", memory_bank_size=(8, 3), negatives="both", symmetric=True)
    views = random_views(0, n=4, d=3)
    bank = loss.memory_bank.embeddings.clone()
    weights = loss.pair_weights(*views)
    assert weights.neg.shape == (8, 8 + 8)
    assert torch.equal(loss.memory_bank.embeddings, bank)  # looking changes nothing
    core = alphacl_plugins.AlphaCLLoss("direct")
    assert loss(*views).item() == pytest.approx(core(*views, queue=bank).item(), rel=1e-12)


LABELS = torch.tensor([0, 0, 1, 2, 1])


@pytest.mark.parametrize("n_views", [1, 2, 3])
@pytest.mark.parametrize("positives", ["all", "other_views"])
def test_views_labels_and_all_that_a_call_can_say_reach_the_core(n_views, positives):
    if n_views == 1 and positives == "other_views":
        pytest.skip("one view has no other")
    views = several_views(0, n=5, d=3, views=n_views)
    call = {"labels": LABELS, "count": torch.rand(5), "sample_weight": torch.rand(5)}
    call |= {"extra_negatives": torch.randn(4, 3), "exclude": torch.tensor([-1, 1, 1, -1, -1])}
    options = {"positives": positives, "positives_as_negatives": True, "ignore_label": 1, "scale": "ntxent"}
    ours, core = AlphaCLLoss("direct", **options), alphacl_plugins.AlphaCLLoss("direct", **options)
    assert torch.equal(ours(*views, **call), core(*views, **call))
    assert torch.equal(ours.pair_weights(*views, **call).neg, core.pair_weights(*views, **call).neg)


@pytest.mark.parametrize("negatives", [None, "both"])
@pytest.mark.parametrize("n_views", [1, 2])
def test_the_bank_keeps_the_classes_that_it_is_given(n_views, negatives):
    loss = AlphaCLLoss("infonce", memory_bank_size=(12, 3), negatives=negatives)
    core = alphacl_plugins.AlphaCLLoss("infonce", negatives=loss.negatives, symmetric=loss.symmetric)
    for step, labels in enumerate([LABELS, None, LABELS]):
        views = several_views(step, n=5, d=3, views=2 if labels is None else n_views)
        queue, classes = loss.memory_bank.embeddings.clone(), loss.memory_bank.labels.clone()
        told = {} if labels is None else {"labels": labels, "queue_labels": classes}
        expected = core(*views, queue=queue, **told)
        assert relative_error(loss(*views, labels=labels), expected) < 1e-12
    assert loss.memory_bank.labels.tolist() == [0, 0, 1, 2, 1, -1, -1, -1, -1, -1, 0, 0]


@pytest.mark.parametrize("reduction", ["mean", "none"])
@pytest.mark.parametrize(("name", "n_views"), [("infonce", 2), ("direct", 3)])
def test_one_sample_alone_has_loss_0_as_in_lightly(name, n_views, reduction):
    views = several_views(0, n=1, d=3, views=n_views)
    loss = AlphaCLLoss(name, reduction=reduction)(*views)
    assert torch.equal(loss, torch.zeros([n_views] if reduction == "none" else [], dtype=torch.float64))
    assert NTXentLoss(0.5)(*views[:2]).item() == 0
    loss.sum().backward()
    assert all(torch.equal(view.grad, torch.zeros_like(view)) for view in views)
    with_bank = AlphaCLLoss(name, memory_bank_size=(8, 3))(*random_views(0, n=1, d=3))
    assert with_bank.item() != 0


def test_without_normalisation_keys_enter_as_they_are():
    loss = AlphaCLLoss("direct", memory_bank_size=(8, 3), l2_normalize=False)
    z, z_aug = random_views(0, n=4, d=3)
    loss(z, z_aug)
    torch.testing.assert_close(loss.memory_bank.embeddings[:4].double(), z_aug.detach())


def test_every_option_arrives():
    loss = AlphaCLLoss(
        "inverse", tau=0.3, gamma=3, negatives="cross", symmetric=False, l2_normalize=False,
        detach_alpha=False, reduction="none", block_size=None, gather_distributed=True,
    )  # fmt: skip
    assert loss.strategy == strategies.Inverse(tau=0.3, gamma=3)
    core = alphacl_plugins.AlphaCLLoss(
        loss.strategy, negatives="cross", symmetric=False, l2_normalize=False, detach_alpha=False, reduction="none",
        block_size=None, gather_distributed=True,
    )  # fmt: skip
    assert repr(loss) == repr(core)[:-1] + ", memory_bank_size=0)"


@pytest.mark.parametrize("name", strategies.strategy_names())
def test_options_by_keyword_reach_the_strategy(name):
    """Each option that the strategy has, at another value than its default."""
    values = {"tau": 0.7, "p": 3.0, "gamma": 3.5, "eps": 2.5, "c": 4.0, "t": 1.5}
    values |= {"kernel": "imq", "normalize": False, "include_augs": False, "a": 2.0, "tau_alpha": 0.2, "tau_beta": 2.0}
    values |= {"mu": 0.1, "sigma": 0.4, "tau_plus": 0.2, "beta": 1.0, "detach": False, "b": -1.0, "nu": 3.0, "q": 0.1}
    values |= {"lam": 0.5, "alpha": 0.7, "a_0": 0.2, "base": 0.1, "m": 0.3}
    values |= {"index": 1.2, "rho": 0.5, "bounds": (0.1, 0.5)}
    default = strategies.build_strategy(name)
    options = {field.name: values[field.name] for field in dataclasses.fields(default)}
    assert not any(getattr(default, option) == value for option, value in options.items())
    loss = AlphaCLLoss(name, **options, memory_bank_size=8)
    assert loss.strategy == type(default)(**options)
    assert loss.memory_bank_size == 8


def test_a_temperature_that_learns_is_one_keyword():
    loss = AlphaCLLoss("infonce", tau=0.3, learnable_tau=True)
    assert isinstance(loss.strategy, strategies.LearnableTemperature)
    loss(*random_views(0, n=4, d=3)).backward()
    (log_tau,) = loss.parameters()
    assert log_tau.grad.abs() > 0


@pytest.mark.parametrize("size", [(7, 3), 7])
@pytest.mark.parametrize("interrupted", [0, 2])
def test_a_resumed_loss_sees_the_negatives_that_it_would_have_seen(size, interrupted):
    batches = [random_views(step, n=4, d=3) for step in range(5)]
    whole, first, second = (AlphaCLLoss("infonce", memory_bank_size=size) for _ in range(3))
    expected = [whole(*views).item() for views in batches]
    for views in batches[:interrupted]:
        first(*views)
    file = io.BytesIO()
    torch.save(first.state_dict(), file)
    file.seek(0)
    second.load_state_dict(torch.load(file, weights_only=True))
    assert [second(*views).item() for views in batches[interrupted:]] == expected[interrupted:]


def test_without_a_bank_there_is_nothing_to_save():
    assert not AlphaCLLoss("infonce").state_dict()
    assert list(AlphaCLLoss(memory_bank_size=8).state_dict()) == [
        f"memory_bank.{name}" for name in ("embeddings", "pointer", "labels")
    ]


@pytest.mark.skipif(torch.__version__ < "2.10", reason="fake tensors of a GPU need a GPU, or abort")
def test_the_bank_follows_the_batch_to_its_device():
    with FakeTensorMode():  # shapes, dtypes and devices alone: a machine without a GPU can run it
        loss = AlphaCLLoss("infonce", memory_bank_size=(8, 3))
        views = [torch.ones(4, 3, device="cuda:0", requires_grad=True) for _ in range(2)]
        assert loss(*views).device.type == "cuda"
        assert loss.memory_bank.embeddings.device.type == "cuda"
        assert loss.memory_bank.pointer.device.type == "cuda"


def test_a_bad_key_does_not_enter_the_bank():
    """One row of NaN or inf makes the loss of its batch NaN, but not those of the batches after it."""
    criterion = AlphaCLLoss("infonce", memory_bank_size=(6, 3))
    before = criterion.memory_bank.embeddings.clone()
    views = random_views(0, n=3, d=3, dtype=torch.float32)
    bad = torch.ones(3, 1)
    bad[1], bad[2] = math.nan, math.inf
    criterion(views[0], views[1] * bad)
    bank = criterion.memory_bank
    torch.testing.assert_close(bank.embeddings[0], views[1][0].detach() / views[1][0].detach().norm())
    assert torch.equal(bank.embeddings[1:], before[1:])
    assert bank.pointer == 3
    assert criterion(*views).isfinite()


def test_compiled_without_graph_breaks_the_bank_holds_the_same():
    compiled, plain = (AlphaCLLoss("infonce", memory_bank_size=(8, 3)) for _ in range(2))
    step = torch.compile(compiled, fullgraph=True, backend="aot_eager")
    for seed in range(3):
        views = random_views(seed, n=5, d=3)
        gradient, expected = (torch.autograd.grad(loss(*views), views)[0] for loss in (step, plain))
        assert relative_error(gradient, expected) < 1e-12
        assert torch.equal(compiled.memory_bank.embeddings, plain.memory_bank.embeddings)


class Training(nn.Module):
    """Network and loss in one module, as a LightningModule is."""

    def __init__(self, size):
        super().__init__()
        self.network = nn.Linear(3, 4)
        self.criterion = AlphaCLLoss("infonce", memory_bank_size=size, gather_distributed=True)

    def forward(self, x, x_aug):
        return self.criterion(self.network(x), self.network(x_aug))


def compare_gathered(rank, world):
    theirs = NTXentLoss(0.5, (7, 3), gather_distributed=True).double()
    ours = AlphaCLLoss("infonce", tau=0.5, memory_bank_size=7, gather_distributed=True).double()
    ours.memory_bank.set_width(3)
    for bank in (ours.memory_bank.embeddings, theirs.memory_bank.bank):  # the same rows, of length 1 in float64 too
        bank.copy_(nn.functional.normalize(ours.memory_bank.embeddings))
    for step in range(6):
        views = [view.chunk(world)[rank] for view in random_views(step, n=2 * world, d=3)]
        loss, expected = ours(*views), 0.5 * theirs(*views)
        assert relative_error(loss, expected) < 1e-11, step
        torch.testing.assert_close(ours.memory_bank.embeddings, theirs.memory_bank.bank)
    with pytest.raises(ValueError, match=r"z: expected the same shape \[N, D\] on every rank to gather"):
        ours(*random_views(0, n=2 + rank, d=3))
    torch.testing.assert_close(ours.memory_bank.embeddings, theirs.memory_bank.bank)
    banks = []
    for size in (7, (7, 4)):
        torch.manual_seed(0)
        training = nn.parallel.DistributedDataParallel(Training(size))
        for step in range(3):
            x, x_aug = (view.detach().float().chunk(world)[rank] for view in random_views(step, n=2 * world, d=3))
            training(x, x_aug).backward()
        banks.append(training.module.criterion.memory_bank.embeddings)
    assert torch.equal(*banks)


def test_the_gathered_bank_is_lightlys(tmp_path):
    run_in_processes(2, tmp_path, compare_gathered)


def test_it_copies_with_its_bank():
    loss = AlphaCLLoss("infonce", memory_bank_size=(8, 3))
    clone = copy.deepcopy(loss)
    views = random_views(0, n=4, d=3)
    assert clone(*views).item() == loss(*views).item()


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: AlphaCLLoss(temperature=0.5), TypeError, r"got temperature; the temperature is called tau"),
        (lambda: AlphaCLLoss(memory_bank_size=-1), ValueError, r"memory_bank_size: expected an int >= 0 or .*, got -1"),
        (lambda: AlphaCLLoss(memory_bank_size=4096.0), ValueError, r"memory_bank_size: expected .*, got 4096.0"),
        (lambda: AlphaCLLoss(memory_bank_size=None), ValueError, r"memory_bank_size: expected .*, got None"),
        (lambda: AlphaCLLoss(memory_bank_size=(8,)), ValueError, r"memory_bank_size: expected .*, got \(8,\)"),
        (lambda: AlphaCLLoss(memory_bank_size=(8, 0)), ValueError, r"memory_bank_size: expected .*, got \(8, 0\)"),
        (lambda: AlphaCLLoss(negatives="queue"), ValueError, r'memory_bank_size: expected .* as negatives is "queue"'),
    ],
)
def test_errors_say_what_was_expected(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_a_refused_batch_does_not_enter_the_bank():
    loss = AlphaCLLoss("infonce", memory_bank_size=8)
    z, z_aug = random_views(0, n=4, d=3)
    with pytest.raises(ValueError, match=r"out1: expected the shape of out0 \(3, 3\), got \(4, 3\)"):
        loss(z[:3], z_aug)
    with pytest.raises(TypeError, match=r"out0: expected a floating-point tensor"):
        loss(z.long(), z_aug)
    assert loss.memory_bank.embeddings.shape == (8, 0)


def test_a_batch_that_the_strategy_refuses_does_not_enter_the_bank():
    loss = AlphaCLLoss(lambda d2_pos, d2_neg: None, memory_bank_size=(8, 3))
    before = copy.deepcopy(loss.state_dict())
    with pytest.raises(TypeError, match=r"strategy: expected one that returns PairWeights"):
        loss(*random_views(0, n=4, d=3))
    assert all(torch.equal(loss.state_dict()[name], tensor) for name, tensor in before.items())


def test_keys_of_another_width_than_the_bank_are_refused():
    loss = AlphaCLLoss("infonce", memory_bank_size=(8, 3))
    with pytest.raises(ValueError, match=r"out1: expected 3 columns as the memory bank has, got \(4, 5\)"):
        loss(*random_views(0, n=4, d=5))
