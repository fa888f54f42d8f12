"""An exponential moving average of a model follows a memory bank of known width, and asks for an unknown one."""

import lightning as L
import pytest
import torch
from lightning.pytorch import callbacks
from oracles import random_views
from timm.utils import ModelEmaV3
from torch import nn
from torch.optim.swa_utils import AveragedModel
from torch.utils.data import DataLoader

from alphacl_lightly import AlphaCLLoss

MOVING_AVERAGES = {
    "torch": lambda model: AveragedModel(model).update_parameters,
    "torch, buffers averaged": lambda model: AveragedModel(model, use_buffers=True).update_parameters,
    "timm": lambda model: ModelEmaV3(model).update,
}
ASKS_FOR_THE_WIDTH = r"^dim: .* memory_bank_size=\(64, 4\)$"


class Training(L.LightningModule):
    """Network and loss in one module."""

    def __init__(self, size):
        super().__init__()
        self.network = nn.Linear(3, 4)
        self.criterion = AlphaCLLoss("infonce", memory_bank_size=size)

    def forward(self, x, x_aug):
        return self.criterion(self.network(x), self.network(x_aug))

    def training_step(self, batch, batch_index):
        return self(*batch)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


@pytest.mark.parametrize("average", MOVING_AVERAGES)
def test_a_moving_average_follows_a_bank_of_known_width_and_asks_for_an_unknown_one(average):
    views = random_views(0, n=4, d=3, dtype=torch.float32)
    training = Training((64, 4))
    update = MOVING_AVERAGES[average](training)
    training(*views)
    update(training)
    assert update.__self__.module.criterion.memory_bank.embeddings.shape == (64, 4)
    training = Training(64)
    update = MOVING_AVERAGES[average](training)
    with pytest.warns(UserWarning, match=ASKS_FOR_THE_WIDTH) as caught:
        training(*views)
    assert caught[0].filename == __file__  # the line of the user
    with pytest.raises(RuntimeError, match=r"size of tensor a \(0\)"):  # in torch, where no line is ours
        update(training)


@pytest.mark.filterwarnings("ignore:The 'train_dataloader' does not have many workers")
@pytest.mark.filterwarnings("ignore:`isinstance.treespec, LeafSpec.` is deprecated")
@pytest.mark.skipif(not hasattr(callbacks, "WeightAveraging"), reason="needs Lightning 2.6")
def test_lightnings_moving_average_asks_for_an_unknown_width(tmp_path):
    batches = [tuple(view.detach() for view in random_views(0, n=4, d=3, dtype=torch.float32))]
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}

    def fit(size):
        averaging = callbacks.WeightAveraging()
        trainer = L.Trainer(accelerator="cpu", max_epochs=1, callbacks=averaging, default_root_dir=tmp_path, **quiet)
        trainer.fit(Training(size), DataLoader(batches, batch_size=None))

    fit((64, 4))
    with (
        pytest.warns(UserWarning, match=ASKS_FOR_THE_WIDTH),
        pytest.raises(RuntimeError, match=r"size of tensor a \(0\)"),
    ):
        fit(64)
