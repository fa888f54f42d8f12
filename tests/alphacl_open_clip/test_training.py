"""The loss in the hosts' own training: open_clip's train_one_epoch and transformers' Trainer, step by step."""

import copy
from types import SimpleNamespace

import pytest
import torch
from tiny_hosts import hugging_face_clip, open_clip_model
from torch.nn.functional import cross_entropy

from alphacl_open_clip import ClipLoss

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("default")]  # of the hosts


class Epoch(list):
    """Batches with what train_one_epoch asks for; it is its own loader."""

    num_batches = property(len)
    num_samples = property(lambda self: sum(len(images) for images, _ in self))
    dataloader = property(lambda self: self)

    def set_epoch(self, epoch):
        """Keep the order."""


def options(**changes):
    given = {
        "device": "cpu",
        "precision": "fp64",
        "distill": False,
        "accum_freq": 1,
        "skip_scheduler": True,
        "horovod": False,
        "grad_clip_norm": 1.0,
        "rank": 0,
        "local_rank": 0,
        "log_local": False,
        "log_every_n_steps": 1,
        "batch_size": 4,
        "world_size": 1,
        "wandb": False,
    }
    return SimpleNamespace(**(given | changes))


def batches(dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)
    draw = {"generator": generator}
    return [(torch.rand(4, 3, 8, 8, dtype=dtype, **draw), torch.randint(1, 50, (4, 6), **draw)) for _ in range(4)]


@pytest.mark.parametrize("accum_freq", [1, 2])
@pytest.mark.parametrize("precision", ["fp64", "amp_bf16"])
def test_train_one_epoch_is_the_hosts(accum_freq, precision):
    train = pytest.importorskip("open_clip_train.train", reason="needs open_clip_train").train_one_epoch
    from open_clip.loss import ClipLoss as HostLoss

    torch.manual_seed(0)
    dtype = torch.float64 if precision == "fp64" else torch.float32
    start = open_clip_model(output_dict=True).to(dtype)
    trained = []
    for loss in (HostLoss(), ClipLoss("infonce")):
        model, losses = copy.deepcopy(start), []
        loss.register_forward_hook(
            lambda module, inputs, output, kept=losses: kept.append(output["contrastive_loss"].item())
        )
        optimizer = torch.optim.SGD(model.parameters(), 0.1)
        arguments = options(accum_freq=accum_freq, precision=precision)
        train(model, {"train": Epoch(batches(dtype))}, loss, 0, optimizer, None, None, None, arguments)
        trained.append((losses, model))
    (expected, theirs), (got, ours) = trained
    assert len(got) == 4
    tolerance = 1e-10 if precision == "fp64" else 2e-2
    assert got == pytest.approx(expected, rel=tolerance)
    assert ours.logit_scale.item() != start.logit_scale.item()
    for p, q in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(p, q, atol=tolerance, rtol=0)


def test_compute_loss_of_transformers_trainer(tmp_path):
    pytest.importorskip("accelerate", reason="needs accelerate")
    from transformers import Trainer, TrainingArguments

    class OursTrainer(Trainer):
        criterion = ClipLoss("infonce")

        def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
            outputs = model(**inputs)
            loss = self.criterion(outputs.image_embeds, outputs.text_embeds, model.logit_scale.exp())
            return (loss, outputs) if return_outputs else loss

    class TheirsTrainer(Trainer):
        def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
            outputs = model(**inputs, return_loss=True)
            own = torch.arange(len(outputs.logits_per_text))
            logits = outputs.logits_per_text
            torch.testing.assert_close(outputs.loss, (cross_entropy(logits, own) + cross_entropy(logits.T, own)) / 2)
            return (outputs.loss, outputs) if return_outputs else outputs.loss

    torch.manual_seed(0)
    start = hugging_face_clip().double()
    data = [
        {"pixel_values": x, "input_ids": y} for images, tokens in batches() for x, y in zip(images, tokens, strict=True)
    ]
    found = []
    for kind in (TheirsTrainer, OursTrainer):
        arguments = TrainingArguments(
            str(tmp_path),
            max_steps=4,
            per_device_train_batch_size=4,
            learning_rate=1e-3,
            logging_steps=1,
            report_to="none",
            save_strategy="no",
            use_cpu=True,
            disable_tqdm=True,
        )
        trainer = kind(copy.deepcopy(start), arguments, train_dataset=data)
        trainer.train()
        found.append([entry["loss"] for entry in trainer.state.log_history if "loss" in entry])
        assert trainer.model.logit_scale.item() != start.logit_scale.item()
    assert len(found[1]) == 4
    assert found[1] == pytest.approx(found[0], abs=1e-5)
