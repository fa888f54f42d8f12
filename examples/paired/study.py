"""A study from its options to the report: plan, tune, judge; or report what is there, or repeat one run."""

import sys
import time
from pathlib import Path

import torch
from rich.console import Console

from launched import ONE_PROCESS, check_launched
from paired import images
from paired.differences import judged_rows
from paired.pictures import draw
from paired.records import Records, describe, read_run
from paired.report import print_report, write_report
from paired.run import Protocol, build, execute, from_settings
from paired.schedule import Study
from paired.settings import Settings
from provenance import held
from recipe.devices import check_gpu
from recipe.results import other_images

REPEATED = ("pairing", "probe", "knn", "effective_negatives")
"""Numbers that a repeated run has in common with its JSON."""


def main(settings: Settings) -> None:
    """Run a study, or what its options say instead.

    Raises: ValueError, TypeError, ImportError, OSError that name the option and what was expected of it.
    """
    console = Console(width=None if sys.stdout.isatty() else 120)
    if settings.run is not None:
        repeat(settings.run, settings.data_root, console)
    elif settings.report:
        report(Records(settings.output), console)
    else:
        with held(settings.output):
            run(settings, console)


def run(settings: Settings, console: Console) -> None:
    """Plan, tune, judge and report."""
    began = time.perf_counter()
    check_launched(1, ONE_PROCESS)
    _ = settings.rows  # a mistake in a row is told before the images are read
    asked = protocol_of(settings)
    parts = images.load(asked.dataset, settings.data_root, asked.image_size, asked.limit)
    records = Records(settings.output)
    records.begin(asked, describe(parts))
    build(settings.any_loss, 0, asked, parts.tuning, parts)  # of batch size and backbone too
    Study(settings, asked, parts, records, console).run(began)
    report(records, console)


def protocol_of(settings: Settings) -> Protocol:
    """Return what the runs are asked to have in common; the precision may still be "auto".

    Raises: ValueError if there is no such device.
    """
    gpu = torch.cuda.is_available()
    check_gpu(settings.device)
    return Protocol(
        dataset=settings.dataset,
        image_size=settings.image_size,
        limit=settings.limit,
        backbone=settings.backbone,
        epochs=settings.epochs,
        batch_size=settings.batch_size,
        learning_rate=settings.learning_rate,
        device="cuda" if gpu and settings.device != "cpu" else "cpu",
        precision=settings.precision,
    )


def report(records: Records, console: Console) -> None:
    """Print the table, draw the pictures and write both as Markdown, of all runs in a folder."""
    rows = judged_rows(records.of("tuned", "paper"))
    print_report(console, records, rows)
    pictures = draw(records, rows)
    for path in (*pictures, write_report(records, rows, pictures)):
        console.print(f"written: {path}", highlight=False, soft_wrap=True)


def repeat(path: Path, data_root: Path, console: Console) -> None:
    """Run one run again, and compare.

    Raises: SystemExit with code 1 if a number differs; ValueError if the images do.
    """
    content = read_run(path)
    one, protocol = from_settings(content)
    check_gpu(protocol.device)
    parts = images.load(protocol.dataset, data_root, protocol.image_size, protocol.limit)
    data = parts.tuning if one.kind == "tuning" else parts.judging
    if other := other_images(content["data"], data.as_dict()):
        raise ValueError(f"data_root: expected the images of {path.name}, got {other[0]}")
    torch.set_num_threads(content["threads"])
    again = execute(one, protocol, parts)
    same = {name: again[name] == content[name] for name in REPEATED}
    for name in REPEATED[1:]:
        shown = "the same" if same[name] else f"other; in the JSON {content[name]}"
        console.print(f"{name} {again[name]}: {shown}", highlight=False)
    if not all(same.values()):
        here, there = (
            f"{made['processor']}, torch {made['versions']['torch']}, commit {made['commit']}"
            for made in (again["environment"], content["environment"])
        )
        sys.exit(f"run: expected the numbers of {path.name}, got others (here {here}; there {there})")
