"""gpu.py: what it leaves when cells crash, hang or have no time, when it is killed, and how it shares out the time."""

import contextlib
import io
import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from digits_folder import write_digits

import gpu
from gpu_steps import ceilings, errors, launches, losses, tiles, timing, trainings
from gpu_steps.cells import BROKEN, OutOfTime, measured
from gpu_steps.report import Report
from gpu_steps.training_runs import Costs, logged_curve

SCRIPT = Path(gpu.__file__)
WORKER = f"""
import json, os, sys, time
print("ready", flush=True)
for cell in json.load(sys.stdin):
    do = cell["do"]
    if do == "hang":
        time.sleep(100)
    if do == "crash":
        sys.exit("first line\\nan error of the GPU")
    print(json.dumps([{{"did": do, "pid": os.getpid()}}]), flush=True)
    if do == "break":
        os._exit({BROKEN})
"""


def measure(*what, workers=1, seconds=60.0, code=WORKER):
    """What was measured, as far as it came, and the cells that were left."""
    found, log = [], io.StringIO()
    cells = [{"do": do, "number": number} for number, do in enumerate(what)]
    try:
        rows = measured([sys.executable, "-c", code], cells, workers=workers, seconds=seconds, log=log)
        with contextlib.closing(rows):
            found.extend(rows)
    except OutOfTime as error:
        return found, error.cells
    return found, []


def test_a_crash_costs_one_cell():
    found, left = measure("a", "crash", "b", "break", "c")
    rows = [row for _, (row,) in found]
    assert [cell["number"] for cell, _ in found] == [0, 1, 2, 3, 4]
    assert rows[1] == {"failed": "exit code 1: an error of the GPU"}
    assert [row.get("did") for row in rows] == ["a", None, "b", "break", "c"]
    assert len({row.get("pid") for row in rows} - {None}) == 3  # another process after each end
    assert left == []


def test_the_end_of_the_time_leaves_what_is_measured_and_names_the_rest():
    began = time.monotonic()
    found, left = measure("a", "a", "hang", "b", "c", "b", workers=2, seconds=3)
    assert time.monotonic() - began < 20
    assert [cell["number"] for cell, _ in found if cell["number"] % 2] == [1, 3, 5]  # the second worker's
    assert [cell["number"] for cell in left] == [2, 4]


def test_a_worker_that_does_not_start_fails_the_step():
    with pytest.raises(ChildProcessError, match="exit code 1: No module named nothing"):
        measure("a", "b", code="import sys; sys.exit('No module named nothing')")


def settings(tmp_path, **changes):
    return gpu.Settings(
        **{"device": "cpu", "output": tmp_path / "out", "data_root": tmp_path, "minutes": 2.0} | changes
    )


def report_of(tmp_path):
    return json.loads((tmp_path / "out" / "gpu.json").read_text(encoding="utf-8"))


def test_a_step_that_fails_or_has_no_time_leaves_the_others(tmp_path, monkeypatch, capsys):
    def fake(name, module, seconds, device, report, log):
        report.add(name, {"a": 1}, [{"b": 2}, {"failed": "no memory"}])
        if name == "errors":
            raise RuntimeError("broken\nsecond line")
        if name == "launches":
            raise OutOfTime([{"a": 3}])

    monkeypatch.setattr(gpu, "measure_cells", fake)
    monkeypatch.setitem(gpu.STEPS, "blocks", gpu.Step(0.05, 1000))
    gpu.main(settings(tmp_path, steps=("blocks", "launches", "errors", "ceilings", "tiles")), time.monotonic())
    report = report_of(tmp_path)
    assert list(report["steps"]) == ["ceilings", "errors", "launches", "blocks", "tiles"]
    ended = {name: (step["state"], step.get("failed") or step.get("why")) for name, step in report["steps"].items()}
    assert ended["ceilings"] == ("finished", None)
    assert ended["errors"] == ("failed", "RuntimeError: broken")
    assert ended["launches"][0] == "cut off"
    assert report["steps"]["launches"]["left_out"] == [{"a": 3}]
    assert ended["blocks"][0] == "left out"
    assert ended["blocks"][1].startswith("seconds: expected at least 1000, got 1")
    assert ended["tiles"] == ("left out", "device: expected a GPU, got cpu")
    assert report["steps"]["ceilings"]["rows"] == [{"b": 2}, {"a": 1, "failed": "no memory"}]
    assert {"torch", "triton", "lightly"} <= report["environment"]["versions"].keys()
    assert str(tmp_path) not in json.dumps(report)
    assert capsys.readouterr().out.startswith("ceilings: finished, 2 rows, 1 of them failed, 0.")


def test_a_step_gets_its_share_and_what_earlier_ones_have_left(tmp_path, monkeypatch):
    given = {}
    monkeypatch.setattr(gpu, "run_step", lambda name, seconds, *_: given.update({name: seconds}))
    monkeypatch.setattr(Report, "in_words", lambda self, name: name)
    (tmp_path / "train").mkdir()
    gpu.main(settings(tmp_path, minutes=20.0), time.monotonic())
    total = 20 * 60 - gpu.GRACE
    assert sum(step.share for step in gpu.STEPS.values()) == pytest.approx(1)
    assert given["ceilings"] == pytest.approx(0.03 * total, rel=0.02)
    assert given["trainings"] == pytest.approx(total, rel=0.02)  # as the others took nothing


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"minutes": -1.0}, ValueError, "minutes: expected a finite number > 0, got -1.0"),
        ({"jobs": 0}, ValueError, "jobs: expected an int >= 1, got 0"),
        ({}, FileNotFoundError, "data_root: expected CIFAR-10, torchvision's files or an image folder, got "),
    ],
)
def test_errors_come_before_any_step(change, error, message, tmp_path):
    with pytest.raises(error, match=message):
        gpu.main(settings(tmp_path, **change), time.monotonic())
    assert not (tmp_path / "out").exists()


@pytest.mark.skipif(torch.cuda.is_available(), reason="has a GPU")
def test_a_gpu_is_expected_unless_the_cpu_is_asked_for(tmp_path):
    with pytest.raises(ValueError, match=r"device: expected a GPU that PyTorch can use, got none; --device cpu"):
        gpu.main(settings(tmp_path, device="cuda"), time.monotonic())


@pytest.mark.parametrize("module", [ceilings, errors, losses])
def test_each_kind_of_row_is_measured_on_a_cpu(module):
    for cell in module.cells("cpu")[-2:]:
        if module is losses:
            cell = cell | {"losses": []}  # their measurements have tests of their own
        rows = list(module.measure("cpu", **cell))
        assert not [row for row in rows if "failed" in row]
        json.dumps(rows, allow_nan=False)
        assert bool(rows) == (module is not losses)


def test_the_errors_are_those_of_the_engine(monkeypatch):
    cell = {"strategy": "infonce", "options": {"tau": 0.1}, "kind": "labels", "n": 12, "width": 8}
    rows = list(errors.measure("cpu", **cell))
    assert [row["engine"] for row in rows] == ["auto", "autograd", 64]
    assert all(0 < row["gradient"] < 1e-5 for row in rows)
    right = errors._value_and_gradient

    def wrong(views, *, engine, **call):
        value, gradient = right(views, engine=engine, **call)
        return value, gradient * (1.5 if engine == 64 else float("nan") if engine == "auto" else 1)

    monkeypatch.setattr(errors, "_value_and_gradient", wrong)
    auto, _, block = errors.measure("cpu", **cell)
    assert block["gradient"] == pytest.approx(0.5, rel=1e-4)
    assert auto["failed"] == "gradient: expected finite numbers, got others"


def test_a_gradient_of_zero_is_right_if_it_is_zero():
    cell = {"strategy": "triplet", "options": {}, "kind": "plain", "n": 12, "width": 512}  # no negative in the margin
    assert [row["gradient"] for row in errors.measure("cpu", **cell)] == [0.0, 0.0, 0.0]


def test_a_gpu_gets_the_sizes_that_were_asked_for():
    cells = losses.cells("cuda")
    assert {cell["n"] for cell in cells} == {64, 128, 512, 1024, 4096, 8192, 16384}
    assert max(cell["n"] for cell in cells if "pytorch-metric-learning" in cell["losses"]) <= 256
    medium = {loss for cell in cells if cell["precision"] == "medium" for loss in cell["losses"]}
    assert {"infonce, kernel", "inf-cl", "memeff"} <= medium
    kernel_cells = [cell for cell in errors.cells("cuda") if cell["kind"] == "plain"]
    assert {cell["strategy"] for cell in kernel_cells} >= {"infonce", "direct", "square", "triplet"}
    assert {cell["way"] for cell in launches.cells("cuda")} == {"plain", "graph", "compiled"}
    assert {cell["precision"] for cell in tiles.compiling("cuda")} == {"highest", "medium"}


def test_milliseconds_are_the_median(monkeypatch):
    seconds, clock = iter([50, 50, 50, 1, 9, 2, 3, 4]), [0]

    def call():
        clock[0] += next(seconds)

    monkeypatch.setattr(timing.time, "perf_counter", lambda: clock[0])
    assert timing.milliseconds(call, "cpu", seconds=0.5, least=5) == 3000  # the first three warm up


def costs(**changes):
    return Costs(**{"start": 15.0, "epoch": 27.0, "knn": 5.0, "evaluation": 20.0} | changes)


@pytest.mark.parametrize("seconds", [20, 100, 300, 1000, 5000])
def test_as_many_epochs_as_end_in_their_probe(seconds):
    found = costs().epochs(seconds, 100)
    every = costs().knn_every(found)
    asked = 1 if every == 0 else 1 + found // every
    halfway = 1 if found >= 4 else 0
    total = 15 + (found - 1) * 27 + 5 * asked + 20 * (1 + halfway)
    assert found == 1 or total <= 0.9 * seconds
    assert found == 100 or total + 2 * 27 + 20 + 5 > 0.9 * seconds
    assert costs().milestones(found)[-1] == found


def test_a_logged_curve_goes_on_after_a_second_start(tmp_path):
    for version, rows in ((0, "0,1.0,,0.01\n5,,,\n"), (1, ",,,\n9,0.5,40.0,0.01\n"), (10, "11,0.2,,0.02\n")):
        (tmp_path / f"csv/version_{version}").mkdir(parents=True)
        text = "step,epoch/loss,epoch/knn,epoch/lr\n" + rows
        (tmp_path / f"csv/version_{version}/metrics.csv").write_text(text)
    assert logged_curve(tmp_path) == [
        {"epoch": 1, "loss": 1.0, "lr": 0.01},
        {"epoch": 2, "loss": 0.5, "knn": 40.0, "lr": 0.01},
        {"epoch": 3, "loss": 0.2, "lr": 0.02},
    ]


def start(tmp_path, *options):
    command = [sys.executable, str(SCRIPT), "--device", "cpu", "--output", str(tmp_path / "out"), *options]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


def children_of(pid):
    """The processes whose parent it is."""
    stats = {
        path.parent.name: path.read_text().rpartition(")")[2].split() for path in Path("/proc").glob("[0-9]*/stat")
    }
    return [int(name) for name, stat in stats.items() if stat[1] == str(pid)]


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("which", [signal.SIGTERM, signal.SIGKILL])
def test_killed_in_the_middle_it_leaves_what_was_measured_and_no_process(which, tmp_path):
    process = start(tmp_path, "--minutes", "10", "--steps", "ceilings", "losses")
    stop = time.monotonic() + 100
    while time.monotonic() < stop:
        time.sleep(0.1)
        path = tmp_path / "out" / "gpu.json"
        if path.exists() and "losses" in json.loads(path.read_text(encoding="utf-8"))["steps"]:
            break
    (worker,) = children_of(process.pid)
    process.send_signal(which)
    process.communicate(timeout=60)
    assert process.returncode == (143 if which == signal.SIGTERM else -9)
    steps = report_of(tmp_path)["steps"]
    assert (steps["ceilings"]["state"], len(steps["ceilings"]["rows"])) == ("finished", 5)
    assert steps["losses"]["state"] == ("cut off" if which == signal.SIGTERM else "running")
    stop = time.monotonic() + 20
    while Path(f"/proc/{worker}").exists() and time.monotonic() < stop:
        time.sleep(0.1)
    assert not Path(f"/proc/{worker}").exists()


@pytest.mark.slow
def test_trainings_end_in_time_with_a_probe_after_their_last_epoch(tmp_path, monkeypatch):
    write_digits(tmp_path / "digits")
    monkeypatch.setattr(trainings, "MOST_EPOCHS", 3)
    monkeypatch.setattr(trainings, "SAVE_EVERY", 0.1)
    log = io.StringIO()
    ended = trainings.run(tmp_path / "digits", "cpu", 1, 400.0, tmp_path, log)
    report = json.loads((tmp_path / "trainings.json").read_text(encoding="utf-8"))
    assert ended["state"] == "finished"
    assert [row["loss"] for row in ended["rows"][:4]] == list(trainings.LOSSES)[: len(ended["rows"])]
    for run in report["runs"]:
        assert run["state"] == "finished"
        assert str(ended["epochs"]) in run["result"]["evaluations"]
        assert [row["epoch"] for row in run["curve"]] == list(range(1, ended["epochs"] + 1))
        assert run["curve"][-1]["loss"] == run["result"]["curve"][-1]["loss"]
    assert report["costs"].keys() == {"start", "epoch", "knn", "evaluation"}
    assert str(tmp_path) not in json.dumps(report)
    assert "after 3 epochs: linear probe" in log.getvalue()


@pytest.mark.slow
def test_every_file_within_the_minutes(tmp_path):
    write_digits(tmp_path / "digits")
    began = time.monotonic()
    process = start(tmp_path, "--minutes", "3", "--data-root", str(tmp_path / "digits"))
    _, said = process.communicate(timeout=400)
    assert process.returncode == 0, said
    assert time.monotonic() - began < 185
    files = {path.name for path in (tmp_path / "out").iterdir()}
    assert files == {"gpu.json", "gpu.log", "loss.json", "loss.md", "loss.png", "trainings.json"}
    states = {name: step["state"] for name, step in report_of(tmp_path)["steps"].items()}
    assert states.keys() == gpu.STEPS.keys()
    assert states.pop("tiles") == "left out"
    assert not [name for name, state in states.items() if state == "failed"]
    assert str(tmp_path) not in (tmp_path / "out" / "gpu.json").read_text(encoding="utf-8")
