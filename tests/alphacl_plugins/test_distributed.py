"""Several gloo processes give the value and the parameter gradient of one process with the whole batch."""

import pytest
import torch
from oracles import random_views, relative_error
from processes import run_in_processes
from torch import distributed as dist
from torch import nn

from alphacl_plugins import AlphaCLLoss, tiles
from alphacl_plugins.strategies import DHEL, KCL, Direct, Entropy, InfoNCE, Inverse, Square, Triplet
from live_bytes import LiveBytes

CASES = {
    "infonce": {"strategy": InfoNCE(0.2)},
    "direct, cross": {"strategy": Direct(), "negatives": "cross"},
    "inverse, through alpha": {"strategy": Inverse(0.5), "detach_alpha": False},
    "square, first view only": {"strategy": Square(1.0), "symmetric": False},
    "dhel": {"strategy": DHEL()},
    "kcl, queue beside": {"strategy": KCL("imq"), "queued": True},
    "infonce, queue alone": {"strategy": InfoNCE(0.2), "negatives": "queue", "queued": True},
    "entropy, three views": {"strategy": Entropy(0.2), "views": 3},
    "infonce, three views, labels": {"strategy": InfoNCE(0.2), "views": 3, "labelled": True},
    "triplet, labels, own view": {"strategy": Triplet(1.5), "labelled": True, "negatives": "same"},
    "kcl, three views, labels, queue": {"strategy": KCL(), "views": 3, "labelled": True, "queued": True},
    "dhel, three views, labels, queue": {"strategy": DHEL(), "views": 3, "labelled": True, "queued": True},
    "infonce, three views, labels, queue, cross": {
        "strategy": InfoNCE(0.2),
        "views": 3,
        "labelled": True,
        "queued": True,
        "negatives": "cross",
    },
    "direct, labels, queue alone": {"strategy": Direct(), "labelled": True, "queued": True, "negatives": "queue"},
}


def ways_to_gather(case) -> tuple:
    """Gathering, and the ring for strategies whose weights factor."""
    in_ring = getattr(case["strategy"], "factored", None) is not None and case.get("detach_alpha", True)
    return (True, "ring") if in_ring else (True,)


def network() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 4)).double()


def value_and_gradients(case, rows: slice, model: nn.Module, gather: bool | str) -> list[torch.Tensor]:
    options = dict(case)
    queue = torch.randn(3, 4, generator=torch.Generator().manual_seed(1)).double() if options.pop("queued", 0) else None
    labels = torch.tensor([0, 1, 2, 0, 3, 1, 0, 4, 5, 2, 1, 6])[rows] if options.pop("labelled", 0) else None
    views = [random_views(seed, n=12, d=5)[0].detach()[rows] for seed in range(options.pop("views", 2))]
    model.zero_grad()
    loss = AlphaCLLoss(gather_distributed=gather, **options)(*map(model, views), labels=labels, queue=queue)
    loss.backward()
    return [loss.detach(), *[p.grad.clone() for p in model.parameters()]]


def compare(rank: int, world: int, expected: dict[str, list[torch.Tensor]]) -> None:
    share = 12 // world
    rows = slice(rank * share, (rank + 1) * share)
    model = nn.parallel.DistributedDataParallel(network())
    for name, case in CASES.items():
        for gather in ways_to_gather(case):
            got = value_and_gradients(case, rows, model, gather)
            dist.all_reduce(got[0])
            got[0] /= world
            for g, e in zip(got, expected[name], strict=True):
                assert relative_error(g, e) < 1e-9, (name, gather)
    if world > 1:
        apart = value_and_gradients(CASES["infonce"], rows, model, gather=False)
        assert relative_error(apart[1], expected["infonce"][1]) > 1e-3  # without gather the test would notice
        check_that_unequal_batches_are_refused(rank)
        check_second_derivatives(rows, world)


def check_that_unequal_batches_are_refused(rank: int) -> None:
    """On every rank, so that none waits for the others."""
    z, labels, queue = torch.ones(2, 3), torch.arange(2), torch.ones(4, 3)
    uneven = torch.ones(2 + rank, 3)
    one_more = [z] * rank
    unlike = {
        r"shape \[N, D\] .* rank 1: \[3, 3\]": ([uneven, uneven], {}, "both"),
        r"shape \[N, D\] .* rank 0: \[0, 3\]": ([uneven[2:], uneven[2:]], {}, "both"),
        r"shape \[N, D\] on every rank to gather, got rank 0: \[2, 3\], rank 1: \[3, 3\]": (
            [uneven, uneven],
            {"queue": queue},
            "queue",
        ),
        r"number of views .* rank 1: 3": ([z, z, *one_more[:1]], {}, "both"),
        r"dtype .* rank 1: torch.float64": ([z.double() if rank else z] * 2, {}, "both"),
        r"use of labels .* rank 1: labels": ([z, z], {"labels": labels} if rank else {}, "both"),
        r"use of a queue .* rank 1: a queue": (
            [z, z],
            {"queue": queue, "labels": labels} if rank else {"labels": labels},
            "queue",
        ),
    }
    for gather in (True, "ring"):
        for message, (views, options, negatives) in unlike.items():
            with pytest.raises(ValueError, match=f"z: expected the same {message}"):
                AlphaCLLoss(negatives=negatives, gather_distributed=gather)(*views, **options)
    for dtype in (torch.int16, torch.uint8, torch.bool):
        z = torch.eye(4)
        AlphaCLLoss(gather_distributed=True)(z, z, labels=torch.tensor([0, 1, 0, 1]).to(dtype))


def check_second_derivatives(rows: slice, world: int) -> None:
    """A penalty on the gradient of the summed loss: the gradient of one process."""
    views = [view.detach() for view in random_views(3, n=12, d=3)]
    loss = AlphaCLLoss("entropy", block_size=None, gather_distributed=True)

    def gradient_of_penalty(z, z_aug, factor):
        z = z.clone().requires_grad_()
        slope = torch.autograd.grad(factor * loss(z, z_aug), z, create_graph=True)[0]
        return torch.autograd.grad(slope.square().sum() / 2, z)[0]

    got = gradient_of_penalty(*(view[rows] for view in views), factor=1.0)
    loss.gather_distributed = False
    expected = gradient_of_penalty(*views, factor=float(world))[rows]
    assert relative_error(got, expected) < 1e-9


def compare_traffic_and_memory(rank: int, world: int) -> None:
    """What a rank sends and holds in a ring: two views of n rows, in blocks, whatever the number of ranks."""
    tiles.SIDE = side = 8
    n, width = 24, 64
    block = 2 * n * width * 8
    classes = n * 8
    sent = [0]
    exchange = dist.batch_isend_irecv

    def counted(operations):
        sent[0] += sum(o.tensor.nbytes for o in operations if o.op is dist.isend)
        return exchange(operations)

    dist.batch_isend_irecv = counted
    views = random_views(rank, n, width)
    for labels, forward_trips in ((None, 1), (torch.arange(n) % 3, 2)):
        sent[0] = 0
        loss = AlphaCLLoss("infonce", gather_distributed="ring")(*views, labels=labels)
        assert sent[0] == forward_trips * (world - 1) * (block + classes)
        loss.backward()
        assert sent[0] == (forward_trips + 1) * (world - 1) * (block + classes) + world * block
    peaks = {}
    for gather in (True, "ring"):
        with LiveBytes() as memory:
            AlphaCLLoss("infonce", gather_distributed=gather)(*views).backward()
        peaks[gather] = memory.peak
    assert peaks["ring"] < 9 * block + 20 * side * side * 8, peaks["ring"] / block
    assert peaks[True] > (2 * world + 1) * block


@pytest.mark.parametrize("world", [1, 2, 3, 4])
def test_parameter_gradients_are_those_of_one_process(world, tmp_path):
    expected = {name: value_and_gradients(case, slice(None), network(), gather=False) for name, case in CASES.items()}
    run_in_processes(world, tmp_path, compare, expected)


@pytest.mark.parametrize("world", [2, 4])
def test_the_ring_sends_and_holds_blocks(world, tmp_path):
    run_in_processes(world, tmp_path, compare_traffic_and_memory)


@pytest.mark.parametrize("gather", [True, "ring"])
def test_without_a_process_group_the_loss_is_that_of_one_process(gather):
    views = random_views(0, n=4, d=3)
    loss = AlphaCLLoss(gather_distributed=gather)(*views)
    assert loss.item() == pytest.approx(AlphaCLLoss()(*views).item(), rel=1e-14)
