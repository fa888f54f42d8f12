"""Two processes, each with half of a batch, have the gradient of one process with all of it."""

import warnings

import pytest
import torch
from oracles import relative_error
from processes import run_in_processes
from solo_clone import METHODS, batch, build, load_solo, needs_clone, small_config, step
from torch import distributed

pytestmark = needs_clone

CASES = [(method, strategy) for method in METHODS for strategy in ("direct", "infonce")]
SAMPLES = 8


def trained(solo, method, strategy, data):
    """Two steps without an update, so that queues count; batch norm takes its running statistics."""
    cfg = small_config(method, loss={"name": "alpha_cl", "strategy": strategy, "tau": 0.3})
    model = build(solo.METHODS[method], cfg).eval()
    step(model, data[0])
    return model, step(model, data[1])


def part(data, rank, world):
    indexes, crops, targets = data
    return [indexes.chunk(world)[rank], [crop.chunk(world)[rank] for crop in crops], targets.chunk(world)[rank]]


def check(rank, world, expected):
    warnings.simplefilter("ignore")  # solo-learn's own
    solo = load_solo()
    for case in CASES:
        data = [part(batch(SAMPLES, seed=seed), rank, world) for seed in (0, 1)]
        model, got = trained(solo, *case, data)
        grads, queue = expected[case]
        for name, grad in got.grads.items():
            distributed.all_reduce(grad)
            assert relative_error(grad / world, grads[name]) < 1e-9, (case, name)
        if hasattr(model, "queue"):
            torch.testing.assert_close(model.queue, queue, rtol=1e-12, atol=0)


@pytest.mark.slow
def test_two_processes_have_the_gradient_of_one(tmp_path):
    solo = load_solo()
    expected = {}
    for case in CASES:
        model, alone = trained(solo, *case, [batch(SAMPLES, seed=seed) for seed in (0, 1)])
        expected[case] = alone.grads, getattr(model, "queue", None)
    run_in_processes(2, tmp_path, check, expected)


@pytest.mark.parametrize("method", ["simclr"])
def test_negatives_of_one_process_alone_would_not_do(method, tmp_path):
    """The comparison above can fail: half the negatives give another gradient."""
    solo = load_solo()
    _, whole = trained(solo, method, "direct", [batch(SAMPLES, seed=seed) for seed in (0, 1)])
    _, half = trained(solo, method, "direct", [part(batch(SAMPLES, seed=seed), 0, 2) for seed in (0, 1)])
    name = "projector.0.weight"
    assert relative_error(half.grads[name], whole.grads[name]) > 1e-3
