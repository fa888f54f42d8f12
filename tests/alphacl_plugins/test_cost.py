"""What a call costs, in numbers that no busy machine changes: operations of a small batch, graphs of torch.compile."""

import pytest
import torch
from batches import random_batch
from torch._dynamo.testing import CompileCounter
from torch.utils._python_dispatch import TorchDispatchMode

from alphacl_plugins import AlphaCLLoss


class Count(TorchDispatchMode):
    """Counts the operations that reach the dispatcher; on a GPU most of them are a launch each."""

    number = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.number += 1
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("name", ["infonce", "direct", "entropy"])
def test_a_small_batch_takes_few_operations(name):
    views, _ = random_batch(2, n=64, d=128, dtype=torch.float32)
    loss = AlphaCLLoss(name)
    with Count() as count:
        loss(*views)
    assert count.number <= 65
    with Count() as count:
        loss.last_stats  # noqa: B018  # computed when read
    assert count.number > 20


OLD = pytest.mark.skipif(torch.__version__ < "2.10", reason="an older torch.compile copies no NamedTuple there")


@pytest.mark.parametrize(
    ("name", "options", "sizes"),
    [
        ("direct", {}, range(8, 20)),
        ("infonce", {}, [32, 48, 64, 96, 100, 128, 200, 256, 300, 400, 500, 512]),
        pytest.param("square", {}, range(8, 20), marks=pytest.mark.slow),
        pytest.param("infonce", {"reduction": "none"}, range(8, 20), marks=OLD),
        pytest.param("infonce", {"learnable_tau": True}, range(8, 20), marks=pytest.mark.slow),
        pytest.param("direct", {"block_size": "autograd"}, range(8, 20), marks=pytest.mark.slow),
        pytest.param("direct", {"block_size": 16}, range(8, 20), marks=pytest.mark.slow),
    ],
)
def test_twelve_batch_sizes_make_few_graphs(name, options, sizes):
    torch._dynamo.reset()
    counter = CompileCounter()
    loss = AlphaCLLoss(name, **options)
    compiled = torch.compile(loss, backend=counter, fullgraph=True)
    for n in sizes:
        views, _ = random_batch(2, n=n, d=16)
        torch.testing.assert_close(compiled(*views), loss(*views))
        compiled(*views).sum().backward()
    assert counter.frame_count <= 4


@OLD
def test_labels_make_few_graphs_too():
    torch._dynamo.reset()
    counter = CompileCounter()
    loss = AlphaCLLoss("infonce")
    compiled = torch.compile(loss, backend=counter, fullgraph=True)
    for n in range(8, 20):
        views, labels = random_batch(2, n=n, d=16)[0], torch.arange(n) % 5
        torch.testing.assert_close(compiled(*views, labels=labels), loss(*views, labels=labels))
    assert counter.frame_count <= 4
