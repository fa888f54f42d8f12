"""One loss object used by several threads at once, and in the workers of a DataLoader."""

from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import pytest
import torch
from oracles import random_views, relative_error
from reliability import record
from reliability.cases import default_strategy, every_name
from torch.utils.data import DataLoader, Dataset

from alphacl_plugins import AlphaCLLoss, energy, strategy_names

THREADS, ROUNDS = 4, 5


def value_and_gradients(loss: AlphaCLLoss, seed: int) -> list[torch.Tensor]:
    views = random_views(seed, n=6 + seed, d=4)
    value = loss(*views)
    return [value.detach(), *torch.autograd.grad(value, views)]


@every_name
def test_threads_may_share_a_loss(name):
    """Each thread gets its own value and gradient; last_stats is that of one of the batches, whole."""
    with record.case("threads share a loss", name):
        loss = AlphaCLLoss(default_strategy(name), detach_alpha=False)
        expected, stats = [], []
        for seed in range(THREADS):
            expected.append(value_and_gradients(loss, seed))
            stats.append(loss.last_stats)
        together = Barrier(THREADS)

        def work(seed: int) -> list[list[torch.Tensor]]:
            together.wait()
            return [value_and_gradients(loss, seed) for _ in range(ROUNDS)]

        with ThreadPoolExecutor(THREADS) as pool:
            results = list(pool.map(work, range(THREADS)))
        for rounds, e in zip(results, expected, strict=True):
            for got in rounds:
                assert all(relative_error(g, wanted) < 1e-13 for g, wanted in zip(got, e, strict=True))
        assert any(all(torch.isclose(loss.last_stats[key], one[key]) for key in one) for one in stats)


class Results(Dataset):
    """Item k is what the k-th registered strategy makes of one batch: loss, gradient, weights, energy, statistics."""

    def __init__(self) -> None:  # the strategies that are not registered hold a lambda, which no process can be sent
        self.losses = [AlphaCLLoss(name) for name in strategy_names()]

    def __len__(self) -> int:
        return len(self.losses)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        loss = self.losses[index]
        views = random_views(index, n=6, d=4)
        value = loss(*views)
        return {
            "value": value.detach(),
            "gradient": torch.autograd.grad(value, views)[0],
            "weights": loss.pair_weights(*views).neg,
            "energy": energy(*views, loss.strategy).detach(),
            "statistics": torch.stack(list(loss.last_stats.values())),
        }


@pytest.mark.parametrize("context", ["fork", "spawn"])
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded, use of fork:DeprecationWarning")
def test_workers_of_a_data_loader(context):
    """What comes from the workers is what this process computes."""
    results = Results()
    loader = DataLoader(results, batch_size=None, num_workers=2, multiprocessing_context=context)
    for name, expected, got in zip(strategy_names(), results, loader, strict=True):
        with record.case(f"DataLoader workers, {context}", name):
            for key in expected:
                assert relative_error(got[key], expected[key]) < 1e-13, key
