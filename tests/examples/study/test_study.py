"""study.py from its options to table, pictures and JSON: what it leaves, how it goes on, what it refuses."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from paired import study
from paired.budget import Costs
from paired.losses import Loss
from paired.records import Records, describe
from paired.settings import Settings
from paired.tuning import best_in

SCRIPT = Path(study.__file__).parents[1] / "study.py"


def runs_in(output):
    """The runs of a study, without what differs from one time to the next."""
    found = {}
    for path in sorted((output / "runs").glob("*/*.json")):
        content = json.loads(path.read_text(encoding="utf-8"))
        curve = [{name: value for name, value in row.items() if name != "seconds"} for row in content["curve"]]
        left_out = ("seconds", "environment", "curve", "command")
        found[f"{path.parent.name}/{path.stem}"] = {
            **{name: value for name, value in content.items() if name not in left_out},
            "curve": curve,
        }
    return found


def test_a_study_leaves_table_pictures_and_a_json_for_each_run(settings, in_process, capsys):
    study.main(settings)
    out = capsys.readouterr().out
    runs = runs_in(settings.output)
    tuning, tuned = ([run for run in runs.values() if run["kind"] == kind] for kind in ("tuning", "tuned"))
    assert len(tuning) == 6  # two values of each row; the best is at an end of them, so one more
    assert {(run["row"], run["seed"]) for run in tuned} == {
        (row, seed) for row in ("infonce", "square") for seed in (1, 2)
    }
    assert "Test images; differences to infonce within a seed" in out.replace("\n", " ")
    differences = re.findall(r"[+-]\d+\.\d\d ± \d+\.\d\d", out)
    assert len(differences) == 2  # probe and kNN
    written = (settings.output / "README.md").read_text(encoding="utf-8")
    assert re.findall(r"[+-]\d+\.\d\d ± \d+\.\d\d", written) == differences
    assert "](differences.png)" in written
    assert "](sharpness.png)" in written
    assert "at most 0:0" in out
    for picture in ("differences.png", "sharpness.png"):
        assert (settings.output / picture).read_bytes()[:4] == b"\x89PNG"
    for run in tuned:  # judged at the best of what was tried
        tried = {json.dumps(each["loss"]): each["probe"] for each in tuning if each["row"] == run["row"]}
        assert tried[json.dumps(run["loss"])] == max(tried.values())
    for seed in (1, 2):
        one, other = (run["pairing"] for run in tuned if run["seed"] == seed)
        assert one == other
    text = next((settings.output / "runs" / "tuned").glob("*.json")).read_text(encoding="utf-8")
    assert str(settings.data_root) not in text
    assert str(settings.output) not in text
    assert {"command", "data", "seed", "curve", "environment", "threads"} <= json.loads(text).keys()


@pytest.mark.slow
def test_what_is_done_is_not_done_again_and_what_is_missing_comes_out_the_same(settings, in_process, capsys):
    study.main(settings)
    before = runs_in(settings.output)
    study.main(settings)
    assert in_process.executed == []
    assert "everything is done already" in capsys.readouterr().out
    lost = ["tuning/square-tau=0.5-seed0", next(name for name in before if name.startswith("tuned/square"))]
    for name in lost:
        (settings.output / "runs" / f"{name}.json").unlink()
    study.main(replace(settings, jobs=2))
    assert set(in_process.executed) == set(lost)
    assert runs_in(settings.output) == before


def test_the_same_folder_takes_the_rows_of_the_paper_and_fresh_seeds(settings, in_process, capsys):
    settings = replace(settings, seeds=1, strategies=("infonce",))
    study.main(replace(settings, steps=("tuning",)))
    assert all(run["kind"] == "tuning" for run in runs_in(settings.output).values())
    study.main(replace(settings, steps=("paper",)))
    assert len(in_process.executed) == 7
    study.main(replace(settings, steps=("tuned",), first_seed=7))
    assert [name.rpartition("-")[2] for name in in_process.executed] == ["seed7"]
    study.main(replace(settings, report=True))
    assert "square, as in the paper" in capsys.readouterr().out


def test_a_longer_study_judges_at_the_values_that_a_shorter_one_found(settings, in_process, tmp_path):
    study.main(replace(settings, steps=("tuning",)))
    probes = Records(settings.output).probes()
    longer = replace(settings, steps=("tuned",), tuned_in=settings.output, output=tmp_path / "longer", epochs=2)
    study.main(replace(longer, seeds=1, strategies=(*longer.strategies, "uniform")))
    judged = Records(longer.output).of("tuned", "tuning")
    assert [(run["kind"], run["row"]) for run in judged] == [
        ("tuned", name) for name in ("infonce", "square", "uniform")
    ]
    for run in judged[:2]:  # uniform has nothing to tune
        tried = {loss: probe for (loss, _), probe in probes.items() if loss.strategy == run["row"]}
        assert tried[Loss.of(run)] == max(tried.values())
    with pytest.raises(ValueError, match=r"tuned_in: expected tuning runs of direct, got those of infonce, square$"):
        study.main(replace(longer, strategies=("infonce", "direct")))


def test_values_of_another_study_come_from_all_its_tuning_seeds():
    low, high = (Loss("square", (("tau", value),)) for value in (1.0, 2.0))
    scores = {(low, 0): 9, (low, 1): 1, (high, 0): 5, (high, 1): 6}
    runs = [
        {"row": "square", "loss": {"strategy": "square", "options": dict(loss.options)}, "seed": seed, "probe": probe}
        for (loss, seed), probe in scores.items()
    ]
    assert best_in(runs, "square", first_seed=2) == high
    with pytest.raises(
        ValueError, match=r"tuned_in: expected 2 tuning runs of each value .* got fewer of square-tau=2"
    ):
        best_in(runs[:3], "square", first_seed=2)
    with pytest.raises(ValueError, match=r"first_seed: expected a seed that the tuning has not seen, >= 2, got 1"):
        best_in(runs, "square", first_seed=1)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"steps": ("tuning", "tuned")}, "steps: expected tuned, without tuning, .*, got tuning tuned$"),
        ({"steps": ("paper",)}, "steps: expected tuned, without tuning, .*, got paper$"),
        ({"steps": ("tuned",), "strategies": ("infonce", "square:tau=1/2")}, r"strategies: .*, got square:tau=1/2$"),
    ],
)
def test_a_study_tunes_in_one_folder_only(settings, changes, message):
    with pytest.raises(ValueError, match=message):
        replace(settings, tuned_in=settings.output, **changes)


@pytest.mark.slow
def test_a_run_that_has_diverged_is_said_to_be_a_guess(settings, in_process, capsys):
    study.main(replace(settings, seeds=1))
    for kind in ("tuning", "tuned"):
        path = next((settings.output / "runs" / kind).glob("square*.json"))
        content = json.loads(path.read_text(encoding="utf-8"))
        assert content["effective_negatives"] > 0  # in the last epoch, before its last step
        path.write_text(json.dumps(content | {"diverged": "features: ..."}), encoding="utf-8")
    study.main(replace(settings, report=True))
    written = (settings.output / "README.md").read_text(encoding="utf-8")
    assert written.count("; 1 of 1 diverged, as good as a guess |") == 1
    assert len(re.findall(r"tau=\S+: diverged", written)) == 1


def test_the_images_of_a_study_are_known_by_their_pixels(parts, protocol, tmp_path):
    records, data = Records(tmp_path), describe(parts)
    records.begin(protocol, data)
    for part in data:
        elsewhere = {name: content | {"source": "image folder moved"} for name, content in data.items()}
        records.begin(protocol, elsewhere)
        elsewhere[part] |= {"sha256": "0123456789ab"}
        message = r"got others: other images \(image folder digits.*; now image folder moved, .* pixels 0123456789\)"
        with pytest.raises(ValueError, match=message):
            records.begin(protocol, elsewhere)


def test_epochs_are_cut_to_fit_and_stay_so(settings, in_process, monkeypatch, capsys):
    monkeypatch.setattr(in_process, "costs", Costs(step=1.0, evaluation=0.0))
    settings = replace(settings, epochs=9, minutes=(1.1 * 10 * 3 * 4 + 20) / 60 + 0.3)
    monkeypatch.setattr(in_process, "run", lambda self, runs, *_: [])
    monkeypatch.setattr(study, "report", lambda *_: None)
    with pytest.raises(ValueError, match="max"):  # nothing was tuned
        study.main(settings)
    assert "to fit into the time: 4 epochs (of 9), 2 seeds (of 2)" in capsys.readouterr().out
    assert json.loads((settings.output / "study.json").read_text())["protocol"]["epochs"] == 4


def test_a_machine_that_becomes_slow_ends_in_time_with_what_is_done(settings, in_process, monkeypatch, capsys):
    from paired import progress

    monkeypatch.setattr(progress, "GRACE", 0.0)
    study.main(settings)
    assert in_process.executed == []
    assert "4 runs are left out of 4; the same command goes on with them" in capsys.readouterr().out
    monkeypatch.undo()
    assert runs_in(settings.output) == {}


def test_one_run_can_be_repeated_from_its_json(settings, in_process, capsys, tmp_path):
    study.main(replace(settings, steps=("tuning",), strategies=("infonce",)))
    path = next((settings.output / "runs" / "tuning").glob("*.json"))
    capsys.readouterr()
    study.main(Settings(run=path, data_root=settings.data_root))
    assert capsys.readouterr().out.count("the same") == 3
    content = json.loads(path.read_text(encoding="utf-8"))
    changed = tmp_path / "changed.json"
    changed.write_text(json.dumps(content | {"seed": 5}), encoding="utf-8")
    with pytest.raises(SystemExit, match=r"expected the numbers of changed\.json, got others"):
        study.main(Settings(run=changed, data_root=settings.data_root))
    changed.write_text(json.dumps(content | {"data": content["data"] | {"sha256": "0"}}), encoding="utf-8")
    message = r"data_root: expected the images of changed\.json, got other images \(.* pixels 0; now"
    with pytest.raises(ValueError, match=message):
        study.main(Settings(run=changed, data_root=settings.data_root))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data_root": Path("nowhere")}, "data_root: expected train/<class>/"),
        ({"batch_size": 1000}, "batch_size: expected at most the number of training images, 100, got 1000"),
        ({"limit": 5}, "limit: expected at least one image for each of the 10 classes, got 5"),
        ({"strategies": ("nonsense",)}, "strategy: expected one of"),
        ({"backbone": "nonsense"}, "nonsense"),
        ({"minutes": 0.01}, "minutes: expected at least"),
    ],
)
def test_mistakes_are_told_before_anything_is_trained(settings, in_process, changes, message):
    with pytest.raises((ValueError, OSError, RuntimeError), match=message):
        study.main(replace(settings, **changes))
    assert not runs_in(settings.output)


def test_a_folder_has_one_study(settings, in_process):
    study.main(replace(settings, steps=("tuning",), strategies=("infonce",)))
    with pytest.raises(ValueError, match=r"expected the settings of the study .* batch_size=32 \(now 16\)"):
        study.main(replace(settings, batch_size=16))


@pytest.mark.parametrize("changes", [{"seeds": 0}, {"minutes": 0.0}, {"first_seed": 0}, {"steps": ()}, {"jobs": 0}])
def test_options_out_of_range_are_named(changes):
    with pytest.raises(ValueError, match=rf"{next(iter(changes))}: expected"):
        Settings(**changes)


def command(settings, output):
    return [
        sys.executable, str(SCRIPT), "--data-root", str(settings.data_root), "--strategies", "square", "--seeds", "2",
        "--trials", "2", "--epochs", "2", "--image-size", "8", "--batch-size", "64", "--precision", "32",
        "--device", "cpu", "--jobs", "2", "--output", str(output),
    ]  # fmt: skip


def start(settings, output):
    return subprocess.Popen(
        command(settings, output), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )


def after_runs(process, number):
    """Wait until so many runs are done in all."""
    for line in process.stdout:
        if line.startswith(f"[{number}/"):
            return
    pytest.fail(process.stderr.read())


@pytest.mark.slow
def test_interrupted_and_killed_a_study_goes_on_to_the_same_numbers(settings, tmp_path):
    """Ctrl-C as a terminal sends it, to all processes; then SIGKILL of the first process alone."""
    whole = subprocess.run(command(settings, tmp_path / "whole"), capture_output=True, text=True, timeout=300)
    assert whole.returncode == 0, whole.stderr
    output = tmp_path / "stopped"
    process = start(settings, output)
    after_runs(process, 2)
    os.killpg(process.pid, signal.SIGINT)
    _, error = process.communicate(timeout=30)
    assert process.returncode == 130
    assert error.strip().splitlines() == ["interrupted; the same command goes on"]
    kept = runs_in(output)
    assert len(kept) >= 2
    process = start(settings, output)
    after_runs(process, 2)
    process.kill()
    process.communicate(timeout=30)
    assert kept.items() <= runs_in(output).items()
    assert wait_for_no_process(process.pid)
    last = subprocess.run(command(settings, output), capture_output=True, text=True, timeout=300)
    assert last.returncode == 0, last.stderr
    assert runs_in(output) == runs_in(tmp_path / "whole")


def wait_for_no_process(group):
    """Whether the workers of a killed study end by themselves."""
    for _ in range(100):
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.1)
    return False
