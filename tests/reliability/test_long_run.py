"""Many training steps in constant memory, and still finite at the end."""

import gc
import resource
import tracemalloc
from pathlib import Path

import pytest
import torch
from reliability import record
from reliability.cases import NAMES, default_strategy
from selection import slow_but
from torch import nn

from alphacl_plugins import AlphaCLLoss, EmbeddingQueue

WARM_UP = 20

QUICK = {"square"}  # the others in `make test-full`


def live_tensors() -> int:
    gc.collect()
    return sum(issubclass(type(thing), torch.Tensor) for thing in gc.get_objects())


def resident_bytes() -> int:
    """Memory of the process, native buffers included; 0 where the system does not tell."""
    pages = Path("/proc/self/statm")
    return int(pages.read_text().split()[1]) * resource.getpagesize() if pages.exists() else 0


class Training:
    """A linear network on small random batches, with its own embeddings of the last two steps in a queue."""

    def __init__(self, name: str) -> None:
        self.generator = torch.Generator().manual_seed(0)
        self.model = nn.Linear(6, 4)
        self.loss = AlphaCLLoss(default_strategy(name), detach_alpha=False)
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.01)
        self.queue = EmbeddingQueue(8, 4)

    def run(self, steps: int) -> None:
        for _ in range(steps):
            x = torch.randn(4, 6, generator=self.generator)
            z, z_aug = self.model(x), self.model(x + 0.1 * torch.randn(4, 6, generator=self.generator))
            value = self.loss(z, z_aug, queue=self.queue.embeddings)
            self.optimizer.zero_grad()
            value.backward()
            self.optimizer.step()
            self.queue.enqueue(z_aug)


def run_in_constant_memory(name: str, steps: int) -> None:
    training = Training(name)
    training.run(WARM_UP)
    tracemalloc.start()
    try:
        training.run(WARM_UP)  # tracemalloc's own tables
        tensors, traced, resident = live_tensors(), tracemalloc.get_traced_memory()[0], resident_bytes()
        training.run(steps)
        assert live_tensors() <= tensors
        python, all_of_it = tracemalloc.get_traced_memory()[0] - traced, resident_bytes() - resident
    finally:
        tracemalloc.stop()
    assert python < 50_000, f"{python} bytes of Python objects in {steps} steps"
    assert all_of_it < 8_000_000, f"{all_of_it} bytes in {steps} steps"
    assert all(parameter.isfinite().all() for parameter in training.model.parameters())


@pytest.mark.parametrize("name", slow_but(QUICK, NAMES))
def test_a_hundred_steps(name):
    with record.case("100 training steps in constant memory", name):
        run_in_constant_memory(name, 100)


@pytest.mark.slow
def test_five_hundred_steps():
    with record.case("500 training steps in constant memory", "direct"):
        run_in_constant_memory("direct", 500)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["direct", "infonce", "square", "kcl"])
def test_ten_thousand_steps(name):
    with record.case("10,000 training steps in constant memory", name):
        run_in_constant_memory(name, 10_000)
