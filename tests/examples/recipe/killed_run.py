"""Run a script that is sent a signal at a chosen moment: `python killed_run.py MOMENT SIGNAL SCRIPT [ARGUMENT ...]`.

Moments: step:E:S (in step S of epoch E, both from 0), write:N (checkpoint N is half written), rename:N (it is written,
but not yet in place), keep (a milestone's checkpoint is half copied), knn:N, probe:N (in step N of the probe).
"""

import itertools
import os
import runpy
import shutil
import signal
import sys
from pathlib import Path

import torch

from recipe import evaluation, pretraining, run, stopping


def main():
    moment, name, script, *arguments = sys.argv[1:]
    what, *numbers = moment.split(":")
    MOMENTS[what](lambda: os.kill(os.getpid(), signal.Signals[name]), *map(int, numbers))
    sys.argv = [script, *arguments]
    sys.path.insert(0, str(Path(script).parent))
    runpy.run_path(script, run_name="__main__")


def at_call(owner, name, number, before):
    """Call ``before(*args)`` when the function is called for the ``number``-th time, from 0, and then the function."""
    original, calls = getattr(owner, name), []

    def wrapped(*args, **kwargs):
        calls.append(1)
        if len(calls) == number + 1:
            before(*args)
        return original(*args, **kwargs)

    setattr(owner, name, wrapped)


def in_step(kill, epoch, step):
    original = pretraining.Pretraining.training_step

    def training_step(self, batch, batch_index):
        loss = original(self, batch, batch_index)
        if (self.current_epoch, batch_index) == (epoch, step):
            kill()
        return loss

    pretraining.Pretraining.training_step = training_step


def in_write(kill, number):
    class Torch:  # only this module's torch.save
        save = staticmethod(torch.save)

    def half(checkpoint, file):
        file.write(b"half a checkpoint")
        file.flush()
        kill()
        file.seek(0)
        file.truncate()

    stopping.torch = Torch
    at_call(Torch, "save", number, half)


def before_rename(kill, number):
    original, checkpoints = os.replace, itertools.count()

    def replace(source, target):
        if Path(target).name == "last.ckpt" and next(checkpoints) == number:
            kill()
        original(source, target)

    os.replace = replace


def in_copy(kill):
    class Shutil:
        copyfile = staticmethod(shutil.copyfile)

    def half(source, target):
        Path(target).write_bytes(b"half a copy")
        kill()

    run.shutil = Shutil
    at_call(Shutil, "copyfile", 0, half)


def in_knn(kill, number):
    at_call(pretraining, "knn_accuracy", number, lambda *_: kill())


def in_probe(kill, number):
    at_call(evaluation, "cross_entropy", number, lambda *_: kill())


MOMENTS = {
    "step": in_step,
    "write": in_write,
    "rename": before_rename,
    "keep": in_copy,
    "knn": in_knn,
    "probe": in_probe,
}

if __name__ == "__main__":
    main()
