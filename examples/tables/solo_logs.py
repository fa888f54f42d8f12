"""What solo-learn wrote while it trained: its TensorBoard logs, and its checkpoints."""

import re
from pathlib import Path
from pickle import UnpicklingError

import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

METHOD = "alpha_cl"
STARTED = "args.json"  # solo-learn writes it when training starts, beside the checkpoints of that start


def curve(folder: Path, checkpoints: Path) -> list[dict[str, float | None]]:
    """Return the epochs in the form of a lightly run; of an epoch that was repeated, the last time counts.

    Solo-learn logs squared distances, twice our d2, and neither the learning rate nor the effective number of
    negatives: these are None. Seconds are those between the ends of two epochs.

    Args:
        folder: Lightning's ``default_root_dir``.
        checkpoints: solo-learn's ``checkpoint.dir``.
    """
    rows: dict[int, dict[str, float | None]] = {}
    for version in _versions(folder):
        started = checkpoints / METHOD / version.name.removeprefix("version_") / STARTED
        log = _read(version)
        if "train_nce_loss_epoch" not in log.Tags()["scalars"] or not started.exists():
            continue  # stopped in its first epoch
        epoch_of = {point.step: int(point.value) + 1 for point in log.Scalars("epoch")}
        names = ("nce_loss", "alignment", "negative_distance", "alpha_entropy")
        before = started.stat().st_mtime
        for points in zip(*(log.Scalars(f"train_{name}_epoch") for name in names), strict=True):
            loss, d2_pos, d2_neg, entropy = (point.value for point in points)
            epoch, now = epoch_of[points[0].step], points[0].wall_time
            rows[epoch] = {
                "epoch": epoch,
                "loss": loss,
                "d2_pos": d2_pos / 2,
                "d2_neg": d2_neg / 2,
                "alpha_entropy": entropy,
                "effective_negatives": None,
                "lr": None,
                "seconds": now - before,
            }
            before = now
    return [rows[epoch] for epoch in sorted(rows)]


def accuracies(folder: Path) -> list[float]:
    """Return the test accuracies in % of a linear evaluation by solo-learn, epoch by epoch."""
    (version,) = _versions(folder)
    return [point.value for point in _read(version).Scalars("val_acc1")]


def latest_checkpoint(folder: Path) -> tuple[int, Path] | None:
    """Return the last whole checkpoint in the folder of a run, and the epochs that it has seen.

    Solo-learn counts epochs from 0 (``NAME-ep=4.ckpt``); those that a milestone kept say how many (``epoch-5.ckpt``).
    """
    found = []
    for path in folder.rglob("*.ckpt"):
        if match := re.search(r"-ep=(\d+)\.ckpt$", path.name):
            found.append((int(match[1]) + 1, path))
        elif match := re.fullmatch(r"epoch-(\d+)\.ckpt", path.name):
            found.append((int(match[1]), path))
    for epochs, path in sorted(found, reverse=True):
        try:
            torch.load(path, map_location="cpu", weights_only=True)
        except (OSError, RuntimeError, EOFError, UnpicklingError):  # cut off while it was written
            continue
        return epochs, path
    return None


def _versions(folder: Path) -> list[Path]:
    """The logs, one for each time that solo-learn was started, in order."""
    return sorted((folder / "lightning_logs").glob("version_*"), key=lambda path: int(path.name.split("_")[1]))


def _read(version: Path) -> EventAccumulator:
    log = EventAccumulator(str(version), size_guidance={"scalars": 0})  # 0: all of them
    log.Reload()
    return log
