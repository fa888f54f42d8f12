"""Several gloo processes give the value and the parameter gradient of one process with the whole batch."""

import contextlib

import pytest
import torch
from oracles import random_views, relative_error
from processes import network, run_in_processes
from torch import distributed as dist
from torch import nn

from alphacl_plugins import AlphaCLLoss
from alphacl_plugins.strategies import DHEL, KCL, Direct, Entropy, InfoNCE, InverseExact, Square, Triplet
from live_bytes import LiveBytes

THREE = pytest.param(3, marks=pytest.mark.slow)
FOUR = pytest.param(4, marks=pytest.mark.slow)
CASES = {
    "infonce": {"strategy": InfoNCE(0.2)},
    "direct, cross": {"strategy": Direct(), "negatives": "cross"},
    "inverse_exact, through alpha": {"strategy": InverseExact(0.5), "detach_alpha": False},
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
    in_ring = case["strategy"].separable and case.get("detach_alpha", True)
    return (True, "ring") if in_ring else (True,)


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
        r"use of labels .* rank 1: labels": ([z, z.clone()], {"labels": labels} if rank else {}, "both"),
        r"use of a queue .* rank 1: a queue": (
            [z, z.clone()],
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
        AlphaCLLoss(gather_distributed=True)(z, z.clone(), labels=torch.tensor([0, 1, 0, 1]).to(dtype))


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


def count_what_a_ring_sends(rank: int, world: int) -> None:
    """Two views of n rows are a block: whatever the number of ranks, W, 3 W - 2 of them in a step without labels."""
    n, width = 24, 64
    block, classes = 2 * n * width * 8, n * 8
    sent = [0]
    exchange = dist.batch_isend_irecv

    def counted(operations):
        sent[0] += sum(o.tensor.nbytes for o in operations if o.op is dist.isend)
        return exchange(operations)

    dist.batch_isend_irecv = counted
    views = random_views(rank, n, width)
    AlphaCLLoss("infonce", gather_distributed="ring")(*views).backward()
    assert sent[0] == (3 * world - 2) * block
    sent[0] = 0
    AlphaCLLoss("infonce", gather_distributed="ring")(*views, labels=torch.arange(n) % 3).backward()
    assert sent[0] == 3 * (world - 1) * (block + classes) + world * block  # once more round for the positives


def compare_memory(rank: int, world: int) -> None:
    """What a rank holds beyond its embeddings, in blocks of two views of n rows and in tiles."""
    n, width, side = 24, 64, 8
    block, facts = 2 * n * width * 8, 2 * n * 4 * 8  # view, sample, place and number of each row
    views = random_views(rank, n, width)
    peaks = {}
    for options in ({"gather_distributed": True}, {"gather_distributed": "ring", "block_size": side}):
        with LiveBytes() as memory:
            AlphaCLLoss("infonce", **options)(*views).backward()
        peaks[options["gather_distributed"]] = memory.peak
    assert peaks[True] > (2 * world + 1) * block
    assert peaks["ring"] < 9.2 * block + 6 * facts + 20 * side * side * 8, peaks["ring"] / block


def a_rank_without_gradient(rank: int, world: int) -> None:
    """One rank is not in training (its rows have no graph, or autograd is off): in a ring the others do not mind."""
    whole = [view.detach() for view in random_views(5, n=3 * world, d=4)]
    own = slice(3 * rank, 3 * rank + 3)
    for case in ({}, {"strategy": DHEL(), "negatives": "cross"}, {"labelled": True}):
        options = {"strategy": InfoNCE(0.2), "block_size": 2} | case
        labels = torch.arange(3 * world) % 4 if options.pop("labelled", False) else None
        leaves = [view.clone().requires_grad_() for view in whole]
        one_process = AlphaCLLoss(**options)(*leaves, labels=labels)
        gradients = torch.autograd.grad(world * one_process, leaves)
        for quiet in range(world):
            for trains, graph in ((False, True), (True, False)):
                views = [view[own].clone().requires_grad_(rank != quiet or graph) for view in whole]
                with torch.set_grad_enabled(rank != quiet or trains):
                    own_labels = None if labels is None else labels[own]
                    value = AlphaCLLoss(gather_distributed="ring", **options)(*views, labels=own_labels)
                assert value.requires_grad == (rank != quiet)
                if rank != quiet:
                    for got, expected in zip(torch.autograd.grad(value, views), gradients, strict=True):
                        assert relative_error(got, expected[own]) < 1e-9
                mean = value.detach().clone()
                dist.all_reduce(mean)
                assert relative_error(mean / world, one_process) < 1e-9
    check_that_a_collective_backward_needs_all(rank, world, [view[own] for view in whole])


def check_that_a_collective_backward_needs_all(rank: int, world: int, views: list[torch.Tensor]) -> None:
    """Where the backward pass itself talks to the other ranks, all take part or none; every rank is told."""
    loss_options = ({"gather_distributed": True}, {"gather_distributed": "ring", "reduction": "none"})
    for options in (*loss_options, {"gather_distributed": True, "reduction": "none"}):
        loss = AlphaCLLoss(InfoNCE(0.2), **options)
        for trains, graph in ((False, True), (True, False)):
            views = [view.detach().clone().requires_grad_(rank > 0 or graph) for view in views]
            with torch.set_grad_enabled(rank > 0 or trains):
                message = "z: expected the same use of gradients on every rank to gather, got rank 0: none, rank 1: a"
                with pytest.raises(ValueError, match=message) if world > 1 else contextlib.nullcontext():
                    loss(*views)
        with torch.no_grad():
            assert loss(*views).isfinite().all()  # none takes part


@pytest.mark.parametrize("world", [1, 2, THREE, FOUR])
def test_a_rank_may_be_without_gradient_where_no_other_waits_for_it(world, tmp_path):
    run_in_processes(world, tmp_path, a_rank_without_gradient)


@pytest.mark.parametrize("world", [1, 2, THREE, FOUR])
def test_parameter_gradients_are_those_of_one_process(world, tmp_path):
    expected = {name: value_and_gradients(case, slice(None), network(), gather=False) for name, case in CASES.items()}
    run_in_processes(world, tmp_path, compare, expected)


@pytest.mark.parametrize("world", [2, THREE, FOUR])
def test_what_a_ring_sends(world, tmp_path):
    run_in_processes(world, tmp_path, count_what_a_ring_sends)


@pytest.mark.parametrize("world", [2, FOUR])
def test_the_ring_holds_blocks(world, tmp_path):
    run_in_processes(world, tmp_path, compare_memory)


@pytest.mark.parametrize("gather", [True, "ring"])
def test_without_a_process_group_the_loss_is_that_of_one_process(gather):
    views = random_views(0, n=4, d=3)
    loss = AlphaCLLoss(gather_distributed=gather)(*views)
    assert loss.item() == pytest.approx(AlphaCLLoss()(*views).item(), rel=1e-14)
