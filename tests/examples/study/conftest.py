import pytest
from digits_folder import write_digits

from paired import images, schedule
from paired.budget import Costs
from paired.losses import Loss
from paired.run import Protocol, Run, execute
from paired.settings import Settings


@pytest.fixture(scope="session")
def digits(tmp_path_factory):
    """An image folder: 260 training and 130 test digits."""
    return write_digits(tmp_path_factory.mktemp("data") / "digits", train=26, test=13)


@pytest.fixture(scope="session")
def parts(digits):
    return images.load(None, digits, 8, None)


@pytest.fixture
def settings(digits, tmp_path):
    """A study of seconds: two rows with two values each, two seeds, one epoch at 8 px."""
    return Settings(
        data_root=digits,
        strategies=("infonce", "square"),
        seeds=2,
        trials=2,
        epochs=1,
        image_size=8,
        limit=100,
        batch_size=32,
        precision="32",
        device="cpu",
        jobs=1,
        output=tmp_path / "study",
    )


@pytest.fixture
def protocol():
    return Protocol(
        dataset=None,
        image_size=8,
        limit=None,
        backbone="small",
        epochs=2,
        batch_size=64,
        learning_rate=3e-3,
        device="cpu",
        precision="32",
    )


@pytest.fixture
def tuned():
    """Makes a judged run."""
    return lambda strategy="infonce", seed=1: Run("tuned", strategy, Loss(strategy), seed)


class InProcess:
    """Workers that are none: the same calls, one after another in this process."""

    costs = Costs(step=0.01, evaluation=0.1)
    executed = ()

    def __init__(self, jobs, parts):
        self.parts = parts
        InProcess.executed = []

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def measure(self, protocol, precisions, losses):
        return dict.fromkeys(precisions, self.costs)

    def run(self, runs, protocol, done, may_begin, tick):
        waiting = list(runs)
        while waiting and may_begin():
            run = waiting.pop(0)
            self.executed.append(run.name)
            done(run, execute(run, protocol, self.parts))
            tick(1)
        return waiting


@pytest.fixture
def in_process(monkeypatch):
    monkeypatch.setattr(schedule, "Workers", InProcess)
    return InProcess
