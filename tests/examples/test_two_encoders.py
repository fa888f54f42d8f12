"""The two-encoder example runs to its end, measures retrieval as a loop would, and learns from true pairs alone."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from looks import watch_looks
from torch.testing import assert_close

import two_encoders
import two_encoders_training
from alphacl_plugins import AlphaCLLoss
from compared import recall
from quickstart_data import load_digits
from two_encoders import UNTRAINED, Run, Settings
from two_encoders_training import COLUMNS, Pairs, TwoEncoders, evaluate, load_pairs


def tiny(output: Path, **changes: object) -> Settings:
    return Settings(**({"strategy": ("infonce", "direct"), "epochs": 1, "seeds": 2, "output": output} | changes))


@pytest.fixture(scope="module")
def output(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("two_encoders")


@pytest.fixture(scope="module")
def runs(output) -> list[Run]:
    return two_encoders.main(tiny(output / "out"))


def test_the_report_holds_every_number(runs, output):
    assert [path.name for path in (output / "out").iterdir()] == ["two_encoders.json"]
    report = json.loads((output / "out/two_encoders.json").read_text(encoding="utf-8"))
    assert report["data"] == "halves of scikit-learn's digits: 1438 training and 359 held-out pairs"
    assert report["settings"]["strategy"] == ["infonce", "direct"]
    assert report["runs"] == [run._asdict() for run in runs]
    assert [run.method for run in runs] == 2 * [UNTRAINED, "infonce", "direct"]
    assert report["chance"]["left → right @5"] == pytest.approx(500 / 359)
    for run in runs:
        assert len(run.curves) == (run.method != UNTRAINED)
        for epoch in run.curves:
            assert epoch.keys() == {"loss", "d2_pos", "d2_neg", "alpha_entropy", "effective_negatives", "negatives"}
    first, second = (run.recalls["right → left @1"] for run in runs if run.method == "direct")
    summary = report["summary"]["direct"]["right → left @1"]
    assert summary["mean"] == pytest.approx((first + second) / 2)
    assert summary["standard_error"] == pytest.approx(abs(first - second) / 2)


def test_statistics_are_computed_every_50_steps(tmp_path, monkeypatch):
    looks = watch_looks(monkeypatch)
    _, run = two_encoders.main(tiny(tmp_path, strategy=("infonce",), seeds=1, batch_size=14))
    assert len(looks) == 3  # steps 0, 50 and 100 of 102
    for name in looks[0]:
        assert run.curves[0][name] == pytest.approx(sum(look[name].item() for look in looks) / 3)


def test_the_terminal_shows_the_table_within_80_columns(tmp_path, capfd, monkeypatch):
    monkeypatch.chdir(tmp_path)
    two_encoders.main(tiny(Path("out"), seeds=1))
    shown = capfd.readouterr()
    assert shown.err == ""
    assert "n = 1 seed, so no standard error" in shown.out
    assert all(word in shown.out for word in ("chance", UNTRAINED, "infonce", "direct", *COLUMNS))
    assert all(len(line) <= 80 for line in shown.out.splitlines())
    assert [path.name for path in tmp_path.iterdir()] == ["out"]  # Lightning leaves no folders behind


def test_a_strategy_gets_the_same_numbers_whatever_it_is_compared_with(runs, tmp_path):
    torch.rand(5)
    alone = two_encoders.main(tiny(tmp_path, strategy=("direct",), seeds=1, first_seed=1))
    assert alone == [run for run in runs if run.seed == 1 and run.method != "infonce"]


def test_the_halves_share_no_pixel_and_together_are_the_digit():
    digits = load_digits()
    for pairs, images in zip(load_pairs(), (digits.train, digits.test), strict=True):
        whole = torch.cat([half.reshape(-1, 8, 4) for half in pairs], dim=2)
        assert_close(whole, images[:, 0].float() / 255, atol=0, rtol=0)


@pytest.mark.parametrize("k", [1, 2, 5])
def test_recall_is_that_of_a_loop(k):
    generator = torch.Generator().manual_seed(0)
    queries = torch.randn(20, 4, generator=generator)
    targets = queries + torch.randn(20, 4, generator=generator)
    found = 0
    for i, query in enumerate(queries):
        cosines = [float(query @ target / query.norm() / target.norm()) for target in targets]
        found += i in np.argsort(cosines)[::-1][:k]
    assert 0 < found < 20
    assert recall(queries, targets, k) == pytest.approx(100 * found / 20)


def test_encoders_to_which_all_looks_the_same_find_nothing():
    assert recall(torch.ones(8, 3), torch.ones(8, 3), k=5) == 0


def test_encoders_that_have_diverged_find_nothing():
    model = TwoEncoders(AlphaCLLoss(), learning_rate=0.1)
    torch.nn.init.constant_(model.right[-1].bias, float("nan"))
    with pytest.raises(ValueError, match=r"embeddings: expected finite numbers, got others; the training has diverged"):
        evaluate(model, load_pairs()[1])


def test_each_column_has_its_direction():
    model = TwoEncoders(AlphaCLLoss(), learning_rate=0.1)
    model.left = model.right = torch.nn.Identity()
    left, right = torch.randn(2, 200, 3, generator=torch.Generator().manual_seed(1))
    right = left + right
    expected = [recall(left, right, 1), recall(left, right, 5), recall(right, left, 1), recall(right, left, 5)]
    assert len(set(expected)) == 4
    assert evaluate(model, Pairs(left, right)) == dict(zip(COLUMNS, expected, strict=True))


def test_true_partners_teach_retrieval_and_shuffled_ones_nothing(tmp_path, monkeypatch):
    settings = tiny(tmp_path, strategy=("infonce",), seeds=1, epochs=10)
    chance = 100 * 5 / 359
    assert two_encoders.main(settings)[1].recalls["left → right @5"] > 20 * chance
    train, test = load_pairs()
    other = torch.randperm(len(train.right), generator=torch.Generator().manual_seed(0))
    monkeypatch.setattr(two_encoders_training, "load_pairs", lambda: (Pairs(train.left, train.right[other]), test))
    broken = two_encoders.main(settings)[1].recalls
    assert max(broken[column] for column in COLUMNS) < 4 * chance


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"strategy": ()}, r"strategy: expected at least one name, got none"),
        ({"strategy": ("drect",)}, r"strategy: expected one of .*direct.*, got 'drect'"),
        ({"strategy": ("uniform",)}, r"uniform: expected no options, got tau"),
        ({"tau": -1.0}, r"tau: expected a finite number > 0, got -1.0"),
        ({"epochs": 0}, r"epochs: expected an int >= 1, got 0"),
        ({"seeds": 0}, r"seeds: expected an int >= 1, got 0"),
        ({"batch_size": 1}, r"batch_size: expected an int >= 2, got 1"),
        ({"learning_rate": float("nan")}, r"learning_rate: expected a finite number > 0, got nan"),
    ],
)
def test_settings_that_cannot_work_are_refused(change, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        tiny(tmp_path, **change)


def test_a_strategy_without_temperature_can_be_trained(tmp_path):
    runs = two_encoders.main(tiny(tmp_path, strategy=("uniform",), tau=None, seeds=1, batch_size=5000))
    assert runs[1].curves  # a batch is at most all pairs


@pytest.mark.slow
def test_every_strategy_beats_the_untrained_encoders_by_many_standard_errors(tmp_path):
    two_encoders.main(Settings(output=tmp_path, first_seed=30))
    summary = json.loads((tmp_path / "two_encoders.json").read_text(encoding="utf-8"))["summary"]
    floor = summary.pop(UNTRAINED)
    assert len(summary) == 3
    for columns in summary.values():
        for column, trained in columns.items():
            error = np.hypot(trained["standard_error"], floor[column]["standard_error"])
            assert trained["mean"] - floor[column]["mean"] > 5 * error > 0
