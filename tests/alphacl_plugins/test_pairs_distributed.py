"""Several gloo processes with masks, extra negatives, counts, weights: what one process gives with the whole batch."""

import itertools

import pytest
import torch
from oracles import relative_error
from processes import network, run_in_processes
from torch import distributed as dist

from alphacl_plugins import AlphaCLLoss, EmbeddingQueue
from alphacl_plugins.strategies import KCL, InfoNCE, Square

N, D, C = 12, 5, 5
G = torch.Generator().manual_seed(3)
VIEWS = torch.randn(2, N, D, generator=G, dtype=torch.float64)
EXTRA = torch.randn(C, D, generator=G, dtype=torch.float64)
OWN = torch.randn(N, 2, D, generator=G, dtype=torch.float64)
QUEUE = torch.randn(3, 4, generator=G, dtype=torch.float64)
LABELS = torch.tensor([0, 1, 2, 0, 3, 1, 0, 4, 5, 2, 1, 6])
IDS = torch.tensor([7, 7, -1, 3, 3, -1, 7, 1, 2, 1, -1, 0])
EXTRA_IDS, QUEUE_IDS = torch.tensor([3, -1, 7, 1, -1]), torch.tensor([7, -1, 2])
COUNTS = torch.rand(N, generator=G, dtype=torch.float64) * 2
WEIGHTS = torch.rand(N, generator=G, dtype=torch.float64)

CASES = {
    "one view": ({}, {"views": 1, "labels": LABELS}),
    "one view, weights, ignored": ({"ignore_label": 0}, {"views": 1, "labels": LABELS, "sample_weight": WEIGHTS}),
    "labels of a queue": ({}, {"labels": LABELS, "queue": QUEUE, "queue_labels": torch.tensor([0, -1, 2])}),
    "other views": ({"positives": "other_views", "negatives": "cross"}, {"labels": LABELS}),
    "extra": ({}, {"extra": EXTRA, "queue": QUEUE}),
    "extra of samples": ({"negatives": "same"}, {"own": OWN}),
    "ids": ({}, {"extra": EXTRA, "queue": QUEUE, "ids": (IDS, EXTRA_IDS, QUEUE_IDS)}),
    "ids, labels": ({}, {"labels": LABELS, "ids": (IDS,)}),
    "queue alone: ids": ({"negatives": "queue"}, {"extra": EXTRA, "queue": QUEUE, "ids": (IDS, EXTRA_IDS, QUEUE_IDS)}),
    "queue alone: counts": ({"negatives": "queue"}, {"queue": QUEUE, "counts": COUNTS}),
    "extra alone": ({"negatives": "queue", "symmetric": False}, {"extra": EXTRA}),
    "counts": ({"strategy": KCL("imq")}, {"counts": COUNTS, "extra": EXTRA}),
    "count and mask by matrix": ({}, {"matrices": True, "extra": EXTRA, "queue": QUEUE}),
    "counts of rows and columns": ({}, {"product": True, "extra": EXTRA}),
    "others too": ({"positives_as_negatives": True}, {"labels": LABELS}),
    "square, ids, counts": ({"strategy": Square(0.5)}, {"counts": COUNTS, "ids": (IDS,)}),
    "usual scale": ({"scale": "ntxent"}, {"extra": EXTRA, "sample_weight": WEIGHTS}),
}


def step(options, said, rank, world, model, gather):
    """Loss and parameter gradients of one rank's samples; rank 0 has more extra negatives than the others."""
    n = N // world
    mine, said = slice(rank * n, rank * n + n), dict(said)
    bounds = [0, *(C - (world - 1 - r) for r in range(world))]
    of_rank = slice(bounds[rank], bounds[rank + 1])
    views = [model(view[mine]) for view in VIEWS[: said.pop("views", 2)]]
    call = {"queue": said.pop("queue", None)}
    for name in ("labels", "sample_weight"):
        if name in said:
            call[name] = said.pop(name)[mine]
    if "queue_labels" in said:
        call["queue_labels"] = said.pop("queue_labels")
    n_extra = 0
    if "extra" in said:
        call["extra_negatives"] = model(said.pop("extra")[of_rank])
        n_extra = C
    if "own" in said:
        call["extra_negatives"] = model(said.pop("own")[mine])
    if "ids" in said:
        of_samples, *others = said.pop("ids")
        others = [others[0][of_rank], *others[1:]] if others else []
        call["exclude"] = torch.cat([of_samples[mine], *others])
    if "counts" in said:
        call["count"] = said.pop("counts")[mine]
    k = 2 * N + n_extra + (0 if call["queue"] is None else len(call["queue"]))
    g = torch.Generator().manual_seed(5)
    rows = torch.cat([torch.arange(view * N, (view + 1) * N)[mine] for view in range(2)])
    if said.pop("matrices", False):
        call["exclude"] = (torch.rand(2 * N, k, generator=g) < 0.3)[rows]
        call["count"] = torch.rand(2 * N, k, generator=g, dtype=torch.float64)[rows]
    if said.pop("product", False):
        call["count"] = (torch.rand(2 * N, generator=g)[rows], torch.rand(k, generator=g))
    assert not said
    model.zero_grad()
    loss = AlphaCLLoss(**({"strategy": InfoNCE(0.3)} | options), gather_distributed=gather)(*views, **call)
    loss.backward()
    return [loss.detach(), *[p.grad.clone() for p in model.parameters()]]


def able(options, gather):
    return gather != "ring" or not isinstance(options.get("strategy"), Square)


def check(rank, world):
    model = network()
    for name, (options, said) in CASES.items():
        expected = step(options, said, 0, 1, model, False)
        for gather in (True, "ring"):
            if not able(options, gather):
                continue
            got = step(options, said, rank, world, model, gather)
            for g in got:
                dist.all_reduce(g)
            for g, e in zip(got, expected, strict=True):
                assert relative_error(g / world, e) < 1e-9, f"{name}, {gather}"
    for rank_alone, gather in itertools.product(range(world), (True, "ring")):
        check_that_all_raise(world, rank == rank_alone, gather)


def check_that_all_raise(world, alone, gather):
    """Arguments of one rank differ in kind or shape: an error everywhere, and nobody waits."""
    z, extra, n_columns = torch.randn(2, 3, 4), torch.randn(2, 4), 6 * world
    kinds, shapes = (
        "z: expected the same kinds of arguments on every rank",
        "expected (shape|the same kinds and shapes)",
    )
    for mine, other, message in (
        ({"count": torch.ones(3)}, {}, kinds),
        ({"count": torch.ones(3)}, {"count": torch.ones(n_columns)}, kinds),
        ({"count": torch.ones(5)}, {"count": torch.ones(n_columns)}, shapes),
        (
            {"exclude": torch.ones(6, 5, dtype=torch.bool)},
            {"exclude": torch.ones(6, n_columns, dtype=torch.bool)},
            shapes,
        ),
        ({"exclude": torch.arange(4)}, {"exclude": torch.arange(3)}, shapes),
        ({"sample_weight": torch.ones(4)}, {"sample_weight": torch.ones(3)}, shapes),
    ):
        with pytest.raises(ValueError, match=message):
            AlphaCLLoss("infonce", gather_distributed=gather)(*z, **(mine if alone else other))
    elsewhere, right = (
        "arguments: expected right ones on every rank, got an error on ranks",
        torch.zeros(3, dtype=torch.int64),
    )
    for wrong, error, message in (
        ({"count": [1.0]}, TypeError, "count: expected a tensor"),
        ({"labels": right[:2]}, ValueError, "labels: expected"),
        ({"labels": right.float()}, TypeError, "labels: expected"),
        ({"extra_negatives": [1.0]}, TypeError, "extra_negatives: expected"),
        ({"queue": torch.ones(2, 5)}, ValueError, "queue: expected"),
    ):
        name = next(iter(wrong))
        fine = {"count": torch.ones(3), "labels": right, "extra_negatives": extra, "queue": extra}[name]
        with pytest.raises(error if alone else ValueError, match=message if alone else elsewhere):
            AlphaCLLoss("infonce", gather_distributed=gather)(*z, **{name: wrong[name] if alone else fine})
    with pytest.raises(TypeError if alone else ValueError, match="z_aug: expected" if alone else elsewhere):
        AlphaCLLoss("infonce", gather_distributed=gather)(z[0], None if alone else z[1])
    queue = EmbeddingQueue(8, 4, gather_distributed=True, labels=True)
    with pytest.raises(ValueError, match="labels: expected" if alone else elsewhere):
        queue.enqueue(z[0], right[:2] if alone else right)
    differ = "z: expected the same options of the loss and kind of strategy on every rank"
    for options in ({"negatives": "cross"}, {"scale": "ntxent"}, {"positives": "other_views"}, {"strategy": "direct"}):
        with pytest.raises(ValueError, match=differ):
            AlphaCLLoss(**({"strategy": "infonce"} | (options if alone else {})), gather_distributed=gather)(*z)
    loss = AlphaCLLoss("infonce", gather_distributed=gather, reduction="none")
    with pytest.raises(ValueError, match="z: expected the same use of gradients on every rank"):
        loss(*z, extra_negatives=extra.requires_grad_(alone))
    extra = extra.detach()
    assert loss(*z, exclude=torch.arange(3, dtype=torch.int32 if alone else torch.int64)).isfinite().all()
    loss = AlphaCLLoss("infonce", negatives="queue", gather_distributed=gather)
    assert loss(*z, extra_negatives=extra[: 0 if alone else 2]).isfinite()


@pytest.mark.parametrize("world", [2, pytest.param(3, marks=pytest.mark.slow)])
def test_ranks_give_what_one_process_gives(tmp_path, world):
    run_in_processes(world, tmp_path, check)
