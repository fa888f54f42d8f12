"""Ten epochs under Lightning's DDP end with the weights of ten epochs in one process with the whole batches."""

import copy
import itertools
import logging
import os
import re
import warnings

import lightning as L
import pytest
import torch
from oracles import random_views, relative_error
from processes import run_in_processes
from torch import Tensor, distributed, nn
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset

from alphacl_plugins import AlphaCLLoss
from alphacl_plugins.strategies import Direct, InfoNCE, LearnableTemperature

SAMPLES, WIDTH, BATCH, EPOCHS = 48, 5, 12, 10
GATHER = (True, "ring")  # the values of gather_distributed that promise exactness
LOSSES = {
    "infonce, two views": {"strategy": InfoNCE(0.2)},
    "direct, three views, labels, queue": {"strategy": Direct(), "views": 3, "labelled": True, "queued": True},
    "infonce, learnable temperature": {"strategy": LearnableTemperature(InfoNCE(0.2))},
}
OPTIMIZERS = {"adam": (torch.optim.Adam, 0.01), "sgd": (torch.optim.SGD, 0.1)}
LIGHTNINGS_OWN = (  # warnings
    "`isinstance(treespec, LeafSpec)` is deprecated",  # Lightning 2.6 under PyTorch 2.15
    "The 'train_dataloader' does not have many workers",  # the samples are in memory
)
CASES = list(itertools.product(LOSSES, OPTIMIZERS))


class Training(L.LightningModule):
    """A small network without batch statistics, in float64, the same whenever it is built."""

    def __init__(self, loss: str, optimizer: str, gather: object) -> None:
        super().__init__()
        options = copy.deepcopy(LOSSES[loss])
        self.views, self.labelled = options.pop("views", 2), options.pop("labelled", False)
        self.queue = random_views(seed=9, n=7, d=4)[0].detach() if options.pop("queued", False) else None
        self.criterion = AlphaCLLoss(gather_distributed=gather, **options).double()
        self.optimizer, self.rate = OPTIMIZERS[optimizer]
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.network = nn.Sequential(nn.Linear(WIDTH, 7), nn.Tanh(), nn.Linear(7, 4)).double()
        self.seen: list[list[int]] = []

    def training_step(self, batch: list[Tensor], batch_index: int) -> Tensor:
        indices, labels, *views = batch
        self.seen.append(indices.tolist())
        embeddings = [self.network(view) for view in views[: self.views]]
        return self.criterion(*embeddings, labels=labels if self.labelled else None, queue=self.queue)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return self.optimizer(self.parameters(), lr=self.rate)

    def weights(self) -> Tensor:
        return nn.utils.parameters_to_vector(self.parameters()).detach()


def loader(rank: int = 0, world: int = 1) -> DataLoader:
    """Share each batch among the ranks: of its samples, the first to rank 0, the second to rank 1, ..."""
    labels = torch.randint(6, (SAMPLES,), generator=torch.Generator().manual_seed(1))
    first, second = random_views(seed=2, n=SAMPLES, d=WIDTH)
    third, _ = random_views(seed=3, n=SAMPLES, d=WIDTH)
    views = [view.detach() for view in (first, second, third)]
    samples = TensorDataset(torch.arange(SAMPLES), labels, *views)
    order = DistributedSampler(samples, num_replicas=world, rank=rank, shuffle=False)
    return DataLoader(samples, batch_size=BATCH // world, sampler=order)


def train_alone(loss: str, optimizer: str) -> Tensor:
    """The whole batches in one process, in a plain loop without Lightning."""
    training = Training(loss, optimizer, gather=False)
    stepper = training.configure_optimizers()
    for _ in range(EPOCHS):
        for index, batch in enumerate(loader()):
            stepper.zero_grad()
            training.training_step(batch, index).backward()
            stepper.step()
    return training.weights()


def train_together(world: int, loss: str, optimizer: str, gather: object) -> Tensor:
    """The same under Lightning, as one of several processes, each with its share of every batch."""
    training = Training(loss, optimizer, gather)
    trainer = L.Trainer(
        accelerator="cpu",
        devices=world,
        strategy="ddp",
        max_epochs=EPOCHS,
        logger=False,
        enable_checkpointing=False,
        enable_model_summary=False,
        enable_progress_bar=False,
        use_distributed_sampler=False,  # Lightning's own would shuffle
    )
    trainer.fit(training, loader(distributed.get_rank(), world))
    check_that_together_they_saw_whole_batches(training.seen, world)
    return training.weights()


def check_that_together_they_saw_whole_batches(seen: list[list[int]], world: int) -> None:
    by_rank: list[list[list[int]]] = [[] for _ in range(world)]
    distributed.all_gather_object(by_rank, seen)
    steps = [sorted(itertools.chain(*shares)) for shares in zip(*by_rank, strict=True)]
    assert steps == EPOCHS * [batch[0].tolist() for batch in loader()]


def compare(rank: int, world: int, expected: dict[tuple[str, str], Tensor]) -> None:
    for message in LIGHTNINGS_OWN:
        warnings.filterwarnings("ignore", re.escape(message))
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    os.environ["LOCAL_RANK"] = str(rank)  # tells Lightning that the processes are there already
    for gather, (case, weights) in itertools.product(GATHER, expected.items()):
        assert relative_error(train_together(world, *case, gather), weights) < 1e-9, (gather, case)
    for loss in LOSSES:
        apart = train_together(world, loss, "sgd", gather=False)
        assert relative_error(apart, expected[loss, "sgd"]) > 1e-3, loss  # without gathering the test would notice


@pytest.mark.slow
@pytest.mark.parametrize("world", [2, 3, 4])
def test_ten_epochs_end_with_the_weights_of_one_process(world, tmp_path):
    expected = {case: train_alone(*case) for case in CASES}
    run_in_processes(world, tmp_path, compare, expected)
