"""Started by a training script: seeds it and writes a line for each step to the file in TRAINING_RECORD.

The line has the loss and the norm of the gradient of all parameters. A process of a distributed run appends its rank to
the name of the file.
"""

import json
import os
from pathlib import Path

import pytorch_lightning
import torch
from torch.optim.optimizer import register_optimizer_step_post_hook


def start() -> None:
    """Seed the script and record what follows."""
    file = Path(f"{os.environ['TRAINING_RECORD']}-{os.environ.get('LOCAL_RANK', 0)}")
    backward, losses = torch.Tensor.backward, []

    def remember(self, *args, **options):
        losses.append(self.item())
        return backward(self, *args, **options)

    def write(optimizer, args, options):
        gradients = [
            p.grad.flatten() for group in optimizer.param_groups for p in group["params"] if p.grad is not None
        ]
        with file.open("a") as lines:
            print(json.dumps([losses[-1], torch.cat(gradients).double().norm().item()]), file=lines)

    torch.Tensor.backward = remember
    register_optimizer_step_post_hook(write)  # Lightning runs the backward pass within the step
    torch.set_num_threads(1)
    pytorch_lightning.seed_everything(0)
