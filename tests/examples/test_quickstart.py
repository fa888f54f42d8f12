"""The quickstart runs to its end, is fair and repeatable, and refuses what cannot work."""

import io
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from looks import watch_looks
from PIL import Image
from rich.console import Console
from torch.testing import assert_close

import quickstart
import quickstart_evaluation
import quickstart_picture
import quickstart_run
from quickstart_data import load_digits, load_folder
from quickstart_evaluation import Scores, evaluate
from quickstart_report import Run, differences, mean_and_error, print_table, verdict
from quickstart_settings import Settings
from quickstart_training import Network, augmentation, fingerprint

COLOURS = {"blue": (0, 0, 250), "green": (0, 250, 0), "red": (250, 0, 0)}


def tiny(output: Path, **changes: object) -> Settings:
    options = {"limit": 60, "epochs": 2, "batch_size": 20, "seeds": 2, "output": output} | changes
    return Settings(**options)


def write_images(folder: Path, per_class: int, size: tuple[int, int] = (12, 10)) -> None:
    """One colour for each class, named after it, so that a label can be read off the pixels."""
    for name, colour in COLOURS.items():
        (folder / name).mkdir(parents=True)
        for index in range(per_class):
            Image.new("RGB", size, colour).save(folder / name / f"{index}.png")


@pytest.fixture(scope="module")
def output(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("quickstart")


@pytest.fixture(scope="module")
def runs(output) -> list[Run]:
    return quickstart_run.main(tiny(output / "out"))


@pytest.fixture
def report(runs, output) -> dict:
    return json.loads((output / "out/quickstart.json").read_text(encoding="utf-8"))


def test_the_report_holds_all_it_promises(report, runs):
    assert report["settings"] | {"limit": 60, "strategy": "direct", "backbone": "test_resnet"} == report["settings"]
    assert report["data"].startswith("scikit-learn digits: 60 training and 60 held-out images, 10 classes, 8x8 px")
    assert report["seeds"] == [0, 1]
    assert list(report["summary"]) == ["untrained", "InfoNCE", "α-CL direct"]
    assert [(run["method"], run["seed"]) for run in report["runs"]] == [(run.method, run.seed) for run in runs]
    assert report["seconds"] > 0
    assert {"torch", "timm", "lightly"} <= report["environment"]["versions"].keys()
    assert report["environment"]["cores"] >= 1
    for method, columns in report["summary"].items():
        for column, summary in columns.items():
            assert (summary["mean"], summary["standard_error"]) == mean_and_error(runs, method, column)


def test_every_number_of_every_run_is_kept(report):
    for run in report["runs"]:
        assert all(0 <= run["scores"][name] <= 100 for name in ("probe_all", "probe_few", "knn"))
        assert 0 <= run["scores"]["alignment"] <= 4
        assert run["scores"]["uniformity"] < 0
        assert 1 <= run["scores"]["effective_rank"] <= 60
        assert len(run["curves"]) == (0 if run["method"] == "untrained" else 2)
        for epoch in run["curves"]:
            assert epoch.keys() == {"loss", "d2_pos", "d2_neg", "alpha_entropy", "effective_negatives", "negatives"}
        assert [look["epoch"] for look in run["monitor"]] == ([] if run["method"] == "untrained" else [0, 2])
        assert all(0 <= look["knn"] <= 100 and look["effective_negatives"] > 1 for look in run["monitor"])


@pytest.mark.slow
def test_statistics_are_computed_every_50_steps(tmp_path, monkeypatch):
    looks = watch_looks(monkeypatch)
    _, _, run = quickstart_run.main(tiny(tmp_path, seeds=1, epochs=1, batch_size=2, limit=102))
    assert len(looks) == 2 * 2  # steps 0 and 50 of 51, of two losses
    for name in looks[0]:
        assert run.curves[0][name] == pytest.approx(sum(look[name].item() for look in looks[2:]) / 2, rel=1e-5)


@pytest.mark.parametrize("name", ["quickstart", "embeddings"])
def test_the_picture_is_a_png(name, runs, output):
    with Image.open(output / f"out/{name}.png") as picture:
        assert picture.format == "PNG"
        assert picture.width > 1000


def test_nothing_else_is_left(runs, output):
    names = ["embeddings.png", "out", "quickstart.json", "quickstart.png"]
    assert sorted(path.name for path in output.rglob("*")) == names


def test_the_curves_can_be_drawn_from_the_numbers(runs, output, tmp_path):
    quickstart_picture.redraw(output / "out/quickstart.json", tmp_path / "again.png")
    with Image.open(output / "out/quickstart.png") as drawn, Image.open(tmp_path / "again.png") as again:
        assert drawn.tobytes() == again.tobytes()


def test_the_losses_start_from_the_untrained_network(runs):
    by_seed = {seed: {run.initial_weights for run in runs if run.seed == seed} for seed in (0, 1)}
    assert all(len(weights) == 1 for weights in by_seed.values())
    assert by_seed[0] != by_seed[1]
    methods = {run.method: run.scores for run in runs if run.seed == 0}
    assert len(set(methods.values())) == 3  # and training changed each of them, in its own way


def test_a_batch_is_at_most_all_images(tmp_path):
    quickstart_run.main(tiny(tmp_path, batch_size=256, epochs=1, seeds=1))
    report = json.loads((tmp_path / "quickstart.json").read_text())
    assert report["settings"]["batch_size"] == 60
    assert report["settings"]["threads"] == 1


def test_both_losses_see_the_same_batches_and_augmentations(tmp_path):
    # 61 images: the one that is left over makes no batch of its own, in which there would be nothing to contrast
    _, first, second = quickstart_run.main(tiny(tmp_path, seeds=1, strategy="infonce", limit=61))
    assert (first.curves, first.scores) == (second.curves, second.scores)


def test_a_seed_gives_the_same_numbers_whatever_ran_before(runs, tmp_path):
    torch.rand(5)
    again = quickstart_run.main(tiny(tmp_path, seeds=1, first_seed=1))
    for old, new in zip([run for run in runs if run.seed == 1], again, strict=True):
        assert (old.scores, old.curves) == (new.scores, new.curves)


def test_the_terminal_shows_table_and_verdict_in_plain_text(tmp_path, capfd, monkeypatch):
    monkeypatch.chdir(tmp_path)
    quickstart_run.main(tiny(Path("out"), epochs=1))
    shown = capfd.readouterr()
    assert shown.err == ""
    assert "\x1b" not in shown.out
    assert "\r" not in shown.out
    assert "n = 2 seeds" in shown.out
    assert "α-CL direct against InfoNCE from the same start, 95 % intervals: " in " ".join(shown.out.split())
    for word in ("untrained", "InfoNCE", "α-CL direct", "kNN", "alignment", "uniformity", "±"):
        assert word in shown.out
    assert [path.name for path in tmp_path.iterdir()] == ["out"]  # Lightning leaves no folders behind


def run_with(method: str, seed: int, accuracy: float) -> Run:
    scores = Scores(accuracy, accuracy - 10, accuracy, 0.1, -1.0, 5.0)
    return Run(method, seed, "", 1.0, scores, [], np.zeros((2, 2), dtype=np.float32))


def test_the_verdict_is_the_paired_difference_to_infonce():
    accuracies = {"untrained": (50.0, 50.0, 50.0), "InfoNCE": (57.0, 60.0, 63.0), "α-CL direct": (58.0, 62.0, 66.0)}
    runs = [run_with(method, seed, values[seed]) for seed in range(3) for method, values in accuracies.items()]
    found = differences(runs)["probe_all"]
    assert (found.mean, found.wins, found.n) == (2.0, 3, 3)
    assert found.half == pytest.approx(4.302653 / math.sqrt(3))  # Student's t with 2 degrees of freedom, times 1/√3
    assert "+2.00 ± 2.48 points (probe, all labels)" in verdict(runs)
    assert verdict(runs).endswith("No difference is shown.")
    sure = [run_with(run.method, run.seed, run.scores.probe_all + 9 * ("direct" in run.method)) for run in runs]
    assert "No difference" not in verdict(sure)


def test_one_seed_claims_no_interval():
    runs = [run_with("untrained", 0, 50.0), run_with("InfoNCE", 0, 58.0), run_with("α-CL direct", 0, 60.0)]
    assert "±" not in verdict(runs)
    assert "interval" not in verdict(runs)
    assert "+2.00 points (probe, all labels)" in verdict(runs)
    assert verdict(runs).endswith("No difference is shown.")


def test_evaluation_changes_no_weight_and_no_random_state():
    images = load_digits(limit=60)
    network = Network("test_resnet", images)
    before, state = fingerprint(network), torch.get_rng_state()
    first, _ = evaluate(network, images, augmentation(images), seed=0)
    assert fingerprint(network) == before
    assert torch.equal(torch.get_rng_state(), state)
    assert evaluate(network, images, augmentation(images), seed=0)[0] == first


def test_held_out_labels_only_score(monkeypatch):
    images = load_digits(limit=200)
    network = Network("test_resnet", images)
    images.test_labels[:] = (images.test_labels + 1) % 10
    scores, _ = evaluate(network, images, augmentation(images), seed=0)
    assert max(scores.probe_all, scores.knn) < 25


def test_the_small_probe_sees_ten_images_of_each_class():
    labels = np.repeat([0, 1, 2], [50, 10, 4])
    chosen = quickstart_evaluation._few_per_class(labels, (0, 0))
    assert np.bincount(labels[chosen]).tolist() == [10, 10, 4]
    assert len(set(chosen)) == len(chosen)
    assert set(quickstart_evaluation._few_per_class(labels, (0, 1))) != set(chosen)


@pytest.mark.parametrize("photos", [False, True])
def test_each_image_of_a_batch_is_changed_by_itself(photos, tmp_path):
    if photos:
        write_images(tmp_path, 5)
    images = load_folder(tmp_path, 16) if photos else load_digits()
    size = images.size
    batch = torch.rand(1, 3, size, size).expand(64, -1, -1, -1).contiguous()
    for change in augmentation(images):
        changed = change(batch)
        assert changed.shape == batch.shape
        assert changed.min() >= 0
        assert changed.max() <= 1
        assert len({image.numpy().tobytes() for image in changed}) > 1


def test_digits_are_split_in_proportion_and_never_shared():
    images = load_digits()
    assert len(images.train) + len(images.test) == 1797
    assert len(images.test) == 359
    counts = np.bincount(images.test_labels)
    assert counts.min() >= 34
    assert counts.max() <= 37
    assert images.train.dtype == torch.uint8
    assert images.train.max() == 255


def test_digits_grow_to_the_size_asked_for():
    assert load_digits(image_size=16, limit=20).train.shape == (20, 3, 16, 16)


def test_a_limit_keeps_every_class_in_proportion():
    images = load_digits(limit=50)
    assert np.bincount(images.train_labels).tolist() == [5] * 10
    assert np.bincount(images.test_labels).tolist() == [5] * 10
    assert np.bincount(load_digits(limit=10).train_labels).tolist() == [1] * 10


def test_any_first_part_of_the_held_out_images_has_every_class():
    assert np.bincount(load_digits().test_labels[:100]).min() >= 9


def test_the_table_fits_a_terminal_of_80_columns(runs):
    console = Console(width=80, record=True, file=io.StringIO())
    print_table(console, runs)
    shown = console.export_text()
    assert "…" not in shown
    assert shown.count("±") == 3 * 6 + 3 + shown.count("mean ±")
    assert all(len(line) <= 80 for line in shown.splitlines())


def check_colours(images: torch.Tensor, labels: np.ndarray, classes: tuple[str, ...]) -> None:
    for image, label in zip(images, labels, strict=True):
        assert_close(image.float().mean(dim=(1, 2)), torch.tensor(COLOURS[classes[label]]).float(), atol=0, rtol=0)


def test_a_folder_with_train_and_test_keeps_them_apart(tmp_path):
    write_images(tmp_path / "train", 6)
    write_images(tmp_path / "test", 3)
    images = load_folder(tmp_path, image_size=8)
    assert images.classes == ("blue", "green", "red")
    assert (images.train.shape, images.test.shape) == ((18, 3, 8, 8), (9, 3, 8, 8))
    check_colours(images.train, images.train_labels, images.classes)
    check_colours(images.test, images.test_labels, images.classes)


def test_a_folder_of_classes_is_split(tmp_path):
    write_images(tmp_path, 10)
    images = load_folder(tmp_path, image_size=8)
    assert np.bincount(images.train_labels).tolist() == [8, 8, 8]
    assert np.bincount(images.test_labels).tolist() == [2, 2, 2]
    check_colours(images.train, images.train_labels, images.classes)
    check_colours(images.test, images.test_labels, images.classes)


def test_a_limit_bounds_held_out_images_too_and_decodes_no_others(tmp_path):
    write_images(tmp_path / "train", 6)
    write_images(tmp_path / "test", 6)
    images = load_folder(tmp_path, image_size=8, limit=3)
    assert (len(images.train), len(images.test)) == (3, 3)
    assert sorted(images.train_labels) == [0, 1, 2]


def test_a_folder_is_trained_on_to_the_end(tmp_path):
    write_images(tmp_path / "data/train", 8)
    write_images(tmp_path / "data/test", 4)
    settings = tiny(tmp_path / "out", data_root=tmp_path / "data", limit=None, batch_size=8, epochs=1, seeds=1)
    runs = quickstart_run.main(settings)
    report = json.loads((tmp_path / "out/quickstart.json").read_text(encoding="utf-8"))
    assert report["data"] == "data: 24 training and 12 held-out images, 3 classes, 32x32 px"
    assert report["summary"]["untrained"]["probe_all"]["standard_error"] is None
    assert runs[0].scores.probe_all == 100  # three colours: any network tells them apart


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"data_root: expected a folder, got .*absent"):
        load_folder(tmp_path / "absent")


def test_train_without_test_is_refused(tmp_path):
    write_images(tmp_path / "train", 2)
    with pytest.raises(FileNotFoundError, match="expected a folder test/ beside train/"):
        load_folder(tmp_path)


def test_other_classes_in_test_are_refused(tmp_path):
    write_images(tmp_path / "train", 2)
    write_images(tmp_path / "test", 2)
    (tmp_path / "test/red").rename(tmp_path / "test/pink")
    with pytest.raises(ValueError, match=r"expected the classes of train in test, got .*red.* and .*pink"):
        load_folder(tmp_path)


def test_a_class_without_images_is_named(tmp_path):
    write_images(tmp_path, 2)
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match=r"expected images \(\.jpg.*got none in .*empty"):
        load_folder(tmp_path)


@pytest.mark.parametrize("n_classes", [0, 1])
def test_fewer_than_two_classes_are_refused(n_classes, tmp_path):
    for name in ["only"][:n_classes]:
        (tmp_path / name).mkdir()
    with pytest.raises(ValueError, match=f"expected at least 2 class folders in .*, got {n_classes}"):
        load_folder(tmp_path)


@pytest.mark.parametrize("kind", ["png", "jpeg"])
@pytest.mark.parametrize("kept", [0.0, 0.01, 0.5])
def test_a_corrupt_image_is_named(kept, kind, tmp_path):
    write_images(tmp_path, 5)
    broken = tmp_path / f"green/broken.{kind}"
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(noise).save(broken)
    content = broken.read_bytes()
    broken.write_bytes(content[: int(kept * len(content))])
    with pytest.raises(ValueError, match=rf"a file that cannot be decoded: .*green.broken\.{kind}"):
        load_folder(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"limit": 9}, r"limit: expected at least one image for each of the 10 classes, got 9"),
        ({"limit": 0}, r"limit: expected an int >= 1, got 0"),
        ({"batch_size": 1}, r"batch_size: expected an int >= 2, got 1"),
        ({"epochs": 0}, r"epochs: expected an int >= 1, got 0"),
        ({"threads": 0}, r"threads: expected an int >= 1, got 0"),
        ({"seeds": 0}, r"seeds: expected an int >= 1, got 0"),
        ({"image_size": -8}, r"image_size: expected an int >= 1, got -8"),
        ({"learning_rate": 0.0}, r"learning_rate: expected a finite number > 0, got 0.0"),
        ({"learning_rate": math.nan}, r"learning_rate: expected a finite number > 0, got nan"),
        ({"backbone": "resnt18"}, r"close names: resnet18"),
        ({"backbone": "inception_v3"}, r"image_size: expected a size that inception_v3 can process"),
        ({"strategy": "drect"}, r"direct"),
        ({"tau": -1.0}, r"tau"),
        ({"infonce_tau": 0.0}, r"tau"),
    ],
)
def test_settings_that_cannot_work_are_refused_before_training(change, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        quickstart_run.prepare(tiny(tmp_path / "out", **change))
    assert not (tmp_path / "out").exists()


def test_the_command_line_shows_a_mistake_in_one_line(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["quickstart.py", "--data-root", "absent", "--limit", "20"])
    with pytest.raises(SystemExit, match=r"^error: data_root: expected a folder, got absent$"):
        quickstart.command_line()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--strategy", "no_such_module.MyAlpha"], r"^error: strategy: cannot import no_such_module: "),
        (["--accelerator", "gpu"], r"^error: accelerator: expected cpu, mps or auto where .* no GPU, got gpu$"),
    ],
)
def test_a_mistake_that_is_seen_after_imports_is_one_line_too(options, message, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr("sys.argv", ["quickstart.py", *options])
    with pytest.raises(SystemExit, match=message):
        quickstart.command_line()


def test_each_loss_has_its_own_temperature(tmp_path):
    losses = quickstart_run.losses(tiny(tmp_path, strategy="square", tau=2.0, infonce_tau=0.2))
    assert [loss.strategy.tau for loss in losses.values()] == [0.2, 2.0]


def test_a_training_that_has_diverged_is_not_judged(tmp_path):
    images = quickstart_run.prepare(tiny(tmp_path))
    network = Network("test_resnet", images)
    torch.nn.init.constant_(network.head.layers[-1].weight, float("nan"))
    with pytest.raises(ValueError, match=r"features: expected finite numbers, got others; the training has diverged"):
        evaluate(network, images, augmentation(images), seed=0)


def test_numbers_are_kept_where_there_is_no_room_for_the_picture(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(quickstart_run, "draw_picture", full)
    arguments = ["--output", str(tmp_path), "--limit", "60", "--epochs", "1", "--seeds", "1", "--batch-size", "20"]
    monkeypatch.setattr("sys.argv", ["quickstart.py", *arguments])
    with pytest.raises(SystemExit, match=r"^error: .*No space left on device$"):
        quickstart.command_line()
    assert [path.name for path in tmp_path.glob("[!.]*")] == ["quickstart.json"]


@pytest.mark.slow
def test_alpha_cl_learns_more_than_three_standard_errors_above_the_floor(tmp_path):
    runs = quickstart_run.main(Settings(output=tmp_path, first_seed=30))
    for column in ("probe_all", "probe_few"):
        (floor, error), (trained, other) = (mean_and_error(runs, name, column) for name in ("untrained", "α-CL direct"))
        assert trained - floor > 3 * math.hypot(error, other) > 0
