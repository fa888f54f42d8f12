"""Several gloo processes give the value and the parameter gradient of one process with the whole batch."""

import gc
import warnings

import pytest
import torch
from oracles import random_views, relative_error
from torch import distributed as dist
from torch import multiprocessing, nn

from alphacl_plugins import AlphaCLLoss
from alphacl_plugins.strategies import DHEL, KCL, Direct, Entropy, InfoNCE, Inverse, Square, Triplet

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
    "direct, labels, queue alone": {"strategy": Direct(), "labelled": True, "queued": True, "negatives": "queue"},
}


def network() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 4)).double()


def value_and_gradients(case, rows: slice, model: nn.Module, gather: bool) -> list[torch.Tensor]:
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
        got = value_and_gradients(case, rows, model, gather=True)
        dist.all_reduce(got[0])
        got[0] /= world
        for g, e in zip(got, expected[name], strict=True):
            assert relative_error(g, e) < 1e-9, name
    apart = value_and_gradients(CASES["infonce"], rows, model, gather=False)
    assert relative_error(apart[1], expected["infonce"][1]) > 1e-3  # without gather the test would notice
    z = torch.ones(2 + rank, 3)
    with pytest.raises(ValueError, match=r"z: expected the same shape \[N, D\] on every rank .* rank 1: \[3, 3\]"):
        AlphaCLLoss(gather_distributed=True)(z, z)


def worker(rank: int, world: int, meeting_point: str, expected: dict[str, list[torch.Tensor]]) -> None:
    torch.set_num_threads(1)
    warnings.simplefilter("error")
    dist.init_process_group("gloo", init_method=meeting_point, rank=rank, world_size=world)
    compare(rank, world, expected)
    gc.collect()  # DDP before its process group, whose threads must not outlive the interpreter
    dist.barrier()  # nobody leaves while others still talk
    dist.destroy_process_group()


@pytest.mark.parametrize("world", [2, 3, 4])
def test_parameter_gradients_are_those_of_one_process(world, tmp_path):
    expected = {name: value_and_gradients(case, slice(None), network(), gather=False) for name, case in CASES.items()}
    multiprocessing.spawn(worker, args=(world, f"file://{tmp_path}/meeting-point", expected), nprocs=world)


def test_with_one_process_gathering_changes_nothing():
    views = random_views(0, n=4, d=3)
    assert AlphaCLLoss(gather_distributed=True)(*views).item() == AlphaCLLoss()(*views).item()
