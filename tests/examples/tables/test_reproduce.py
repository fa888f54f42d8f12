"""reproduce.py: which cells it runs, what it skips and keeps, what counts as a cell, the report, signals, estimates."""

import json
import os
import re
import signal
import statistics
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import tyro
from digits_folder import write_digits
from PIL import Image

import reproduce
from provenance import environment
from recipe import protocol
from recipe.settings import Settings
from recipe.stopping import Stopped
from reproduce import Reproduction
from tables import running
from tables.cells import arguments, differences, read
from tables.children import Task, run_child, run_children
from tables.estimate import Speeds, in_words
from tables.kept import load, repetitions
from tables.paper import ROWS, TABLES, reported
from tables.plots import draw
from tables.report import markdown

EXAMPLES = Path(__file__).parents[3] / "examples"
SCRIPT = EXAMPLES / "reproduce.py"


def content(row="direct", seed=0, host="lightly", dataset="cifar10", backbone="resnet18", accuracy=None, **changes):
    """The content of a result that no run has written; ``accuracy``: best of the probe, by epochs."""
    settings = Settings(**ROWS[row].options, backbone=backbone, seed=seed, **changes)
    data = protocol.DATASETS[dataset]
    counts = {name: getattr(data, name) for name in ("train", "test", "unlabeled", "classes", "image_size")}
    accuracy = {100: 80.0} if accuracy is None else accuracy
    return {
        "host": host,
        "host_commit": None,
        "dataset": dataset,
        "backbone": backbone,
        "loss": settings.label,
        "strategy": repr(settings.build_strategy()),
        "seed": seed,
        "settings": settings.as_dict() | {"precision": "32"},
        "data": {"source": f"torchvision {dataset}", **counts, "sha256": "ab" * 32},
        "evaluations": {
            str(epochs): {"probe_best": best, "probe_last": best - 1, "probe_curve": [], "knn": best - 2, "seconds": 1}
            for epochs, best in accuracy.items()
        },
        "host_linear": {},
        "curve": [{"epoch": 10, "loss": 1.0, "knn": 50.0, "seconds": 1.0}],
        "times": {"pretraining_seconds": 10.0, "images_per_second": 4000.0},
        "environments": [environment() | {"processor": "test processor", "gpu": None, "commit": "c" * 40}],
    }


def save(results, name, values, host="lightly"):
    path = results / host / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(values), encoding="utf-8")
    return path


def names(**options):
    return [cell.name for cell in Reproduction(**options).cells()]


def test_the_cells_of_a_table():
    assert len(names(table=1)) == 2 * 7 * 5
    assert len(names(table=2)) == 6 * 2 * 5
    assert len(names(table=1, dataset="stl10", seeds=2)) == 7 * 2
    assert names(table=2, dataset="cifar100", backbone="resnet50", row=("direct",), seeds=2, first_seed=3) == [
        "lightly cifar100 resnet50 direct seed 3",
        "lightly cifar100 resnet50 direct seed 4",
    ]
    assert names(table=2, dataset="cifar100", backbone="vit_tiny_patch16_224", row=("direct",), seeds=1) == [
        "lightly cifar100 vit_tiny_patch16_224 direct seed 0"
    ]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"table": 1, "dataset": "cifar100"}, "dataset: expected one that table 1 has with any backbone and any row"),
        ({"table": 2, "row": ("square",)}, "dataset: expected one that table 2 has with any backbone and square"),
        ({"seeds": 0}, "seeds: expected an int >= 1, got 0"),
        ({"limit": 1}, "limit: expected an int >= 2, got 1"),
        ({"workers": -1}, "workers: expected an int >= 0, got -1"),
        ({"jobs": 0}, "jobs: expected an int >= 1, got 0"),
        ({"minutes": 0.0}, "minutes: expected a finite number > 0, got 0.0"),
    ],
)
def test_what_cannot_be_asked_for(options, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        Reproduction(**options)


def test_the_command_line_of_a_cell_gives_its_settings_back():
    settings = Settings(
        loss="backprop", backbone="resnet50", seed=3, epochs=7, eval_epochs=(2, 5), data_root=Path("a b"),
        download=True, limit=20, device="cpu", compile=True,
    )  # fmt: skip
    line = list(arguments(settings, Settings()))
    assert tyro.cli(Settings, args=line) == settings
    assert list(arguments(Settings(), Settings())) == []


def test_the_command_of_a_cell_is_its_recipe_with_resume():
    (cell,) = Reproduction(table=2, dataset="stl10", backbone="resnet50", row=("infonce",), seeds=1).cells()
    assert cell.command[1:] == [
        str(EXAMPLES / "stl10_resnet50.py"), "--loss", "infonce", "--epochs", "100",
        "--schedule", "paper", "--output", ".runs/reproduce/lightly", "--resume",
    ]  # fmt: skip
    assert cell.kept == Path("results/lightly/stl10_resnet50/infonce-seed0.json")


def test_a_try_works_and_is_kept_apart():
    (cell,) = Reproduction(table=1, dataset="cifar10", row=("direct",), seeds=1, limit=512, batch_size=64).cells()
    assert cell.changes == ["batch_size=64", "limit=512"]
    assert cell.result == Path(
        ".runs/reproduce/lightly/cifar10_resnet18/direct-batch_size=64-limit=512-seed0/result.json"
    )
    assert cell.kept == Path("results/tries/lightly/cifar10_resnet18/direct-batch_size=64-limit=512-seed0.json")


def test_a_result_of_the_protocol_is_a_cell():
    for row in ROWS:
        assert differences(content(row)) == []
    assert differences(content(dataset="stl10", precision="bf16", compile=True, classes=10, learning_rate=0.01)) == []


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (content(limit=512), ["limit=512"]),
        (content(batch_size=256), ["batch_size=256"]),
        (content(learning_rate=0.1), ["learning_rate=0.1"]),
        (content(schedule="cosine"), ["schedule=cosine"]),
        (content(devices=2), ["devices=2"]),
        (content(backbone="resnet34"), ["backbone=resnet34"]),
        (content("square", backbone="resnet50"), ["no cell of the tables"]),
        (content() | {"loss": "direct-p=2.0"}, ["another loss"]),
        (content() | {"strategy": "Direct(tau=0.5, p=2.0)"}, ["another loss"]),  # as the name meant once
        (content() | {"data": content()["data"] | {"train": 49_999}}, ["train=49999"]),
    ],
)
def test_a_result_of_anything_else_is_a_try_that_says_why(values, expected, tmp_path):
    assert differences(values) == expected
    save(tmp_path, "one", values)
    runs = load(tmp_path)
    assert repetitions(runs) == []
    before, _, tries = markdown(runs).partition("## Tries")
    assert "No cell has been run yet." in before
    assert f"| {expected[0]} | 100 | 80.00 | 79.00 | 78.00 |" in tries
    assert "one.json" not in before


def line(text, *start):
    """The columns of the first line of the report that starts so."""
    (found, *_) = [row for row in text.splitlines() if row.startswith("| " + " | ".join(start) + " |")]
    return [column.strip() for column in found.strip("|").split("|")]


def test_the_report_sets_ours_beside_the_papers(tmp_path):
    best = [85.0, 84.0, 86.5]
    for seed, value in enumerate(best):
        save(tmp_path, f"direct-seed{seed}", content(seed=seed, accuracy={100: value, 300: value + 2}))
    save(tmp_path, "infonce-seed0", content("infonce", accuracy={100: 84.0}, seed=7))
    text = markdown(load(tmp_path))
    mean, std = statistics.fmean(best), statistics.stdev(best)
    seeds = ", ".join(f"[{seed}](lightly/direct-seed{seed}.json)" for seed in range(3))
    place = "CIFAR-10, ResNet-18"
    assert line(text, place, "α-CL-direct", "100") == [
        place, "α-CL-direct", "100", "85.11 ± 0.19", f"{mean:.2f} ± {std:.2f}", f"{mean - 85.11:+.2f}",
        f"n = 3: {seeds}", f"{mean - 1:.2f} ± {std:.2f}", f"{mean - 2:.2f} ± {std:.2f}", "A",
    ]  # fmt: skip
    assert line(text, place, "α-CL-direct", "300")[4] == f"{mean + 2:.2f} ± {std:.2f}"
    assert line(text, place, "L_nce", "100")[4:7] == ["84.00", "-0.06", "n = 1: [7](lightly/infonce-seed0.json)"]
    assert f"| {place} | α-CL-direct | 500 |" not in text  # no line for a cell that was not run
    paper = text.partition("## The paper's")[2]
    assert line(paper, place, "α-CL-direct") == [
        place, "α-CL-direct", f"85.11 ± 0.19 **{mean:.2f} ± {std:.2f}**",
        f"87.93 ± 0.16 **{mean + 2:.2f} ± {std:.2f}**", "88.09 ± 0.13",
    ]  # fmt: skip
    assert line(text, "A") == [
        "A", "lightly", "torchvision cifar10, sha256 ababababab", "50,000 train + 10,000 test", "test processor", "32",
        "cccccccccc",
    ]  # fmt: skip
    assert "## Tries" not in text


def test_hosts_and_data_are_never_averaged(tmp_path):
    folder = content(seed=2, accuracy={100: 60.0})
    folder["data"] |= {"source": "image folder", "sha256": "cd" * 32}
    save(tmp_path, "a", content(seed=0, accuracy={100: 80.0}))
    save(tmp_path, "b", folder)
    save(tmp_path, "c", content(seed=1, host="solo-learn", accuracy={100: 70.0}), host="solo-learn")
    text = markdown(load(tmp_path))
    rows = [row.split(" | ") for row in text.splitlines() if "| α-CL-direct | 100 | 85" in row]
    assert [(row[4], row[9].strip(" |")) for row in rows] == [("80.00", "A"), ("60.00", "B"), ("70.00", "C")]
    assert "| α-CL-direct | 85.11 ± 0.19 **80.00** **60.00** **70.00** |" in text


def test_two_files_of_one_seed_are_an_error(tmp_path):
    save(tmp_path, "a", content())
    save(tmp_path, "b", content())
    with pytest.raises(ValueError, match=r"expected one file for each cell, .* got lightly/a.json and lightly/b.json"):
        markdown(load(tmp_path))


@pytest.mark.parametrize(
    ("text", "message"), [("{", "expected JSON in .*x.json"), ("[]", "expected the result of a recipe in .*x.json")]
)
def test_a_file_that_is_no_result_is_an_error(text, message, tmp_path):
    path = save(tmp_path, "x", None)
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=message):
        load(tmp_path)


def test_other_files_in_the_folder_of_results_are_left_alone(tmp_path):
    (tmp_path / "speed.json").write_text("[]", encoding="utf-8")
    assert load(tmp_path) == []


def test_the_host_s_own_evaluation_has_its_table(tmp_path):
    values = content(host="solo-learn")
    values["host_linear"] = {"100": {"best": 61.5, "last": 60.25, "epochs": 50, "image_size": 224}}
    save(tmp_path, "a", values, host="solo-learn")
    text = markdown(load(tmp_path)).partition("## solo-learn's own linear evaluation")[2]
    link = "[solo-learn cifar10 resnet18 direct seed 0](solo-learn/a.json)"
    assert line(text, link) == [link, "100", "61.50", "60.25", "50", "224 px"]


def test_every_number_of_the_paper_is_in_the_report_once_without_any_result():
    lines = markdown([]).splitlines()
    for (dataset, backbone), rows in (TABLES[1] | TABLES[2]).items():
        for row in rows:
            numbers = " | ".join(f"{n.mean:.2f} ± {n.std:.2f}" for n in reported(dataset, backbone, row).values())
            assert sum(line.endswith(f"| {ROWS[row].title} | {numbers} |") for line in lines) == 1
    assert "No cell has been run yet." in lines
    assert not any("–" in line or "| |" in line for line in lines)


def test_pictures_of_what_there_is(tmp_path):
    assert draw(load(tmp_path), tmp_path) == []
    old = tmp_path / "plots" / "old.png"
    old.parent.mkdir()
    old.write_bytes(b"")
    for row in ("infonce", "direct"):
        save(tmp_path, row, content(row))
    save(tmp_path, "try", content("square", limit=512))
    drawn = draw(load(tmp_path), tmp_path)
    assert [path.as_posix() for path in drawn] == [
        "plots/ours-against-paper.png",
        "plots/accuracy-cifar10-resnet18-lightly-abababab.png",
    ]
    assert sorted((tmp_path / "plots").iterdir()) == sorted(tmp_path / path for path in drawn)
    for path in drawn:
        with Image.open(tmp_path / path) as picture:
            assert picture.format == "PNG"
            assert len(np.unique(np.asarray(picture.convert("RGB")).reshape(-1, 3), axis=0)) > 20  # not empty


def dry_run(results, capsys, **options):
    options = {"table": 1, "dataset": "cifar10", "row": ("direct",), "seeds": 3, "epochs": 300} | options
    reproduce.main(Reproduction(results=results, dry_run=True, device="cpu", **options))
    return capsys.readouterr().out.splitlines()


def kept(results, cell_options, values):
    (cell,) = Reproduction(
        results=results, table=1, seeds=1, row=("direct",), dataset="cifar10", **cell_options
    ).cells()
    cell.kept.parent.mkdir(parents=True, exist_ok=True)
    cell.kept.write_text(json.dumps(values), encoding="utf-8")


def test_a_dry_run_lists_what_is_done_partly_and_to_do(tmp_path, capsys):
    kept(tmp_path, {}, content(accuracy={100: 1.0, 300: 1.0}))
    kept(tmp_path, {"first_seed": 1}, content(seed=1, accuracy={100: 1.0}))
    before = sorted(tmp_path.rglob("*"))
    lines = dry_run(tmp_path, capsys)
    assert lines[0] == "done        lightly cifar10 resnet18 direct seed 0, 300 epochs"
    assert lines[1].startswith("partly (100)  lightly cifar10 resnet18 direct seed 1, 300 epochs  no measurement yet")
    assert lines[2].startswith("to do       lightly cifar10 resnet18 direct seed 2, 300 epochs  no measurement yet")
    assert lines[3] == "no measurement yet of this backbone, image size and hardware: 2 of 3 cells"
    assert sorted(tmp_path.rglob("*")) == before  # nothing is written


def test_a_dry_run_estimates_from_what_was_measured_here(tmp_path, capsys):
    done, other = content(accuracy={100: 1.0}), content(seed=4)
    done["environments"] = [environment()]
    done["settings"]["device"] = "cpu"
    done["times"]["images_per_second"] = 390 * 128 / 36  # an epoch in 36 s
    other["times"]["images_per_second"] = 1e9  # on another processor
    kept(tmp_path, {}, done)
    save(tmp_path, "other", other)
    lines = dry_run(tmp_path, capsys, seeds=2)
    assert lines[0].endswith("300 epochs  estimate: 2:00:00")  # 200 are left
    assert lines[1].endswith("300 epochs  estimate: 3:00:00")
    assert lines[2] == "all that is measured: estimate: 5:00:00"
    (unknown,) = Reproduction(table=2, dataset="cifar10", backbone="resnet50", row=("direct",), seeds=1).cells()
    assert Speeds(load(tmp_path)).seconds(unknown) is None


def test_estimates_are_said_to_be_estimates():
    assert in_words(3600) == "estimate: 1:00:00"
    assert in_words(None) == "no measurement yet"


class Runs:
    """Stands in for the processes: each writes the result that it is told to, or fails."""

    def __init__(self, monkeypatch, exit_codes=(), **changes):
        self.commands = []
        self.exit_codes = list(exit_codes)
        self.changes = changes
        monkeypatch.setattr(running, "run_children", self)

    def __call__(self, tasks, *, jobs, environment, end):
        assert environment["PYTHONPATH"].split(os.pathsep)[0] == str(EXAMPLES)
        for task in tasks:
            yield task.name, self.run(task.command)

    def run(self, command):
        self.commands.append(command)
        code = self.exit_codes.pop(0) if self.exit_codes else 0
        if not code:
            settings = tyro.cli(Settings, args=command[2:])
            folder = settings.folder("cifar10")
            values = content(seed=settings.seed, accuracy=dict.fromkeys(settings.milestones, 80.0))
            values["data"] |= self.changes
            folder.mkdir(parents=True, exist_ok=True)
            (folder / "result.json").write_text(json.dumps(values), encoding="utf-8")
        return code


def some(tmp_path, **options):
    options = {"table": 1, "dataset": "cifar10", "row": ("direct",), "seeds": 3} | options
    return Reproduction(results=tmp_path / "results", runs=tmp_path / "runs", **options)


def test_one_failure_leaves_the_others_and_is_tried_again(tmp_path, monkeypatch, capsys):
    runs = Runs(monkeypatch, exit_codes=[0, 137, 0])
    with pytest.raises(SystemExit, match=r"failed: 1; .*\n  lightly cifar10 resnet18 direct seed 1: exit code 137"):
        reproduce.main(some(tmp_path))
    results = tmp_path / "results"
    assert [run.content["seed"] for run in load(results)] == [0, 2]
    assert "n = 2: [0](" in (results / "README.md").read_text(encoding="utf-8")
    reproduce.main(some(tmp_path))
    (again,) = runs.commands[3:]
    assert again == runs.commands[1]
    assert "n = 3: [0](" in (results / "README.md").read_text(encoding="utf-8")
    assert capsys.readouterr().out.count("done already") == 2


def test_more_epochs_go_on_with_the_run(tmp_path, monkeypatch):
    runs = Runs(monkeypatch)
    reproduce.main(some(tmp_path, seeds=1))
    reproduce.main(some(tmp_path, seeds=1, epochs=300))
    first, second = runs.commands
    assert first[-1] == second[-1] == "--resume"
    assert first[-2] == second[-2]  # the same folder
    (run,) = load(tmp_path / "results")
    assert list(run.content["evaluations"]) == ["100", "300"]


def test_a_run_on_other_images_is_kept_as_a_try_and_done_once(tmp_path, monkeypatch):
    runs = Runs(monkeypatch, train=400)
    reproduce.main(some(tmp_path, seeds=1))
    reproduce.main(some(tmp_path, seeds=1))
    assert len(runs.commands) == 1
    (run,) = load(tmp_path / "results")
    assert run.path.as_posix() == "tries/lightly/cifar10_resnet18/direct-train=400-seed0.json"


def test_a_result_of_other_images_does_not_replace_one(tmp_path, monkeypatch):
    Runs(monkeypatch)
    reproduce.main(some(tmp_path, seeds=1))
    Runs(monkeypatch, sha256="cd" * 32)
    with pytest.raises(ValueError, match=r"results: expected the images of .*direct-seed0.json, got other images \("):
        reproduce.main(some(tmp_path, seeds=1, epochs=300))
    (run,) = load(tmp_path / "results")
    assert list(run.content["evaluations"]) == ["100"]


def test_a_child_s_exit_code():
    assert run_child([sys.executable, "-c", "raise SystemExit(3)"]) == 3
    assert run_child([sys.executable, "-c", "import os; os.kill(os.getpid(), 9)"]) == -9
    check = "import os; raise SystemExit(os.environ['ONE'] != 'two')"
    assert run_child([sys.executable, "-c", check], {"ONE": "two"}) == 0


def python(name, code, log=None):
    return Task(name, [sys.executable, "-c", code], log)


def test_several_run_at_once_each_with_its_log(tmp_path):
    wait = f"""
import pathlib, sys, time
here = pathlib.Path({str(tmp_path)!r})
(here / sys.argv[1]).touch()
stop = time.monotonic() + 100
while len(list(here.glob("[ab]"))) < 2 and time.monotonic() < stop:
    time.sleep(0.01)
print("both are here")
raise SystemExit(len(list(here.glob("[ab]"))))
"""
    tasks = [Task(name, [sys.executable, "-c", wait, name], tmp_path / "logs" / name) for name in "ab"]
    assert sorted(run_children(iter(tasks), jobs=2)) == [("a", 2), ("b", 2)]
    assert [task.log.read_text() for task in tasks] == 2 * ["both are here\n"]


def test_after_the_end_of_the_time_what_runs_is_terminated_and_nothing_begins():
    tasks = iter([python("a", "import signal; signal.pause()"), python("b", ""), python("c", "")])
    assert list(run_children(tasks, jobs=1, end=time.monotonic() + 0.5)) == [("a", -signal.SIGTERM)]
    assert [task.name for task in tasks] == ["b", "c"]


def test_children_that_nobody_waits_for_are_ended(tmp_path):
    pid = "import os, signal, sys; print(os.getpid(), flush=True); signal.pause()"
    running_on = run_children(iter([python("a", pid, tmp_path / "a"), python("b", "")]), jobs=2)
    assert next(running_on) == ("b", 0)
    while not (tmp_path / "a").read_text():
        time.sleep(0.01)
    running_on.close()
    with pytest.raises(ProcessLookupError, match="No such process"):
        os.kill(int((tmp_path / "a").read_text()), 0)


def test_what_does_not_fit_into_the_minutes_is_left_out_and_named(tmp_path, monkeypatch, capsys):
    runs = Runs(monkeypatch)
    reproduce.main(some(tmp_path, seeds=1, device="cpu"))
    path = tmp_path / "results" / load(tmp_path / "results")[0].path
    values = read(path)  # as if measured here: 100 epochs in an hour
    values["environments"], values["settings"]["device"] = [environment()], "cpu"
    values["times"]["images_per_second"] = 390 * 128 / 36
    path.write_text(json.dumps(values), encoding="utf-8")
    capsys.readouterr()
    reproduce.main(some(tmp_path, device="cpu", minutes=59, jobs=2))
    assert len(runs.commands) == 1  # and the one that is done was not run again
    printed = capsys.readouterr().out
    assert printed.endswith(
        "left out: 2; the same command goes on with them\n"
        "  lightly cifar10 resnet18 direct seed 1: not begun\n"
        "  lightly cifar10 resnet18 direct seed 2: not begun\n"
    )
    assert printed.count("left out: estimate: 1:00:00") == 2
    reproduce.main(some(tmp_path, device="cpu", minutes=61, jobs=2))
    assert len(runs.commands) == 3


def test_the_time_of_a_cell_on_other_images_is_that_of_its_images(tmp_path, monkeypatch):
    Runs(monkeypatch, train=1000)  # instead of 50,000
    reproduce.main(some(tmp_path, seeds=1, device="cpu"))
    (run,) = load(tmp_path / "results")
    values = run.content | {"environments": [environment()]}
    values["settings"]["device"], values["times"]["images_per_second"] = "cpu", 7 * 128.0
    (tmp_path / "results" / run.path).write_text(json.dumps(values), encoding="utf-8")
    ended, to_do = some(tmp_path, seeds=2, device="cpu").cells()
    speeds = Speeds(load(tmp_path / "results"))
    assert (speeds.seconds(ended), speeds.seconds(to_do)) == (0, 100)  # seven batches, a hundred epochs


def test_a_cell_that_the_end_of_the_time_stops_is_named_and_not_a_failure(tmp_path, monkeypatch, capsys):
    def stopped(tasks, *, jobs, environment, end):
        first = next(tasks)
        assert first.log == tmp_path / "runs/lightly/cifar10_resnet18/direct-seed0.log"
        monkeypatch.setattr(time, "monotonic", lambda: end)
        yield first.name, 143

    monkeypatch.setattr(running, "run_children", stopped)
    reproduce.main(some(tmp_path, seeds=2, minutes=1, jobs=2))
    assert capsys.readouterr().out.endswith(
        "left out: 2; the same command goes on with them\n"
        "  lightly cifar10 resnet18 direct seed 0: stopped\n"
        "  lightly cifar10 resnet18 direct seed 1: not begun\n"
    )


PARENT = """
import sys
from tables.children import Task, run_child, run_children
run_child([sys.executable, "-c", sys.argv[1], sys.argv[2]])
print("not reached")
"""
CHILD = """
import pathlib, signal, sys
def end(which, frame):
    print("child got", which, flush=True)
    raise SystemExit(0)
for which in (signal.SIGINT, signal.SIGTERM):
    signal.signal(which, end)
signal.alarm(100)  # if the signal is not passed on
pathlib.Path(sys.argv[1]).touch()
signal.pause()
"""


@pytest.mark.parametrize("which", [pytest.param(signal.SIGINT, marks=pytest.mark.slow), signal.SIGTERM])
def test_a_signal_reaches_the_child_once_and_ends_both(which, tmp_path):
    ready = tmp_path / "ready"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(EXAMPLES), os.environ.get("PYTHONPATH", "")])}
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT, CHILD, str(ready)], env=environment, stdout=subprocess.PIPE, text=True
    )
    deadline = time.monotonic() + 120
    while not ready.exists():
        assert parent.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.05)
    parent.send_signal(which)
    printed, _ = parent.communicate(timeout=200)
    assert printed.splitlines() == [f"child got {int(which)}"]
    assert parent.returncode == 128 + which


def test_a_stopped_run_stops_the_others(tmp_path, monkeypatch):
    def stopped(tasks, **options):
        raise Stopped(143)

    monkeypatch.setattr(running, "run_children", stopped)
    with pytest.raises(Stopped, match="143"):
        reproduce.main(some(tmp_path))
    assert not (tmp_path / "results").exists()


def script(folder, *options):
    return subprocess.run(
        [sys.executable, str(SCRIPT), *options], cwd=folder, capture_output=True, text=True, check=False
    )


@pytest.mark.slow
def test_a_cell_by_lightly_from_end_to_end(tmp_path):
    write_digits(tmp_path / "digits")
    options = ["--table", "1", "--dataset", "cifar10", "--backbone", "test_resnet", "--row", "entropy", "--seeds", "1",
               "--epochs", "2", "--eval-epochs", "1", "--batch-size", "64", "--device", "cpu", "--knn-every", "1",
               "--data-root", "digits"]  # fmt: skip
    done = script(tmp_path, *options)
    assert done.returncode == 0, done.stdout + done.stderr
    (run,) = load(tmp_path / "results")
    assert run.path.as_posix() == (
        "tries/lightly/cifar10_test_resnet/entropy-backbone=test_resnet-batch_size=64-train=200-test=60-seed0.json"
    )
    assert list(run.content["evaluations"]) == ["1", "2"]
    (result,) = tmp_path.glob(".runs/reproduce/lightly/cifar10_test_resnet/entropy-*-seed0/result.json")
    assert run.content == read(result)
    assert (
        "backbone=test_resnet, batch_size=64, train=200, test=60 | 2 |" in (tmp_path / "results/README.md").read_text()
    )
    options[options.index("--seeds") + 1] = "2"
    listed = script(tmp_path, *options, "--dry-run")
    assert listed.returncode == 0, listed.stderr
    first, second = listed.stdout.splitlines()[:2]
    assert first.startswith("done ")
    assert "estimate: " in second


@pytest.mark.slow
def test_an_error_of_the_user_s_is_one_line(tmp_path, monkeypatch):
    monkeypatch.setenv("SOLO_LEARN_HOME", str(tmp_path))
    done = script(tmp_path, "--table", "1", "--host", "solo-learn", "--seeds", "1")
    assert done.returncode == 1
    assert done.stderr == (
        f"error: SOLO_LEARN_HOME: expected a clone of https://github.com/vturrisi/solo-learn, got none at {tmp_path}\n"
    )


def test_the_report_of_this_repository_is_made_of_its_results(tmp_path):
    results = EXAMPLES.parent / "results"
    runs = load(results)
    pictures = draw(runs, tmp_path)
    assert (results / "README.md").read_text(encoding="utf-8") == markdown(runs, pictures)
    assert all((results / picture).exists() for picture in pictures)
