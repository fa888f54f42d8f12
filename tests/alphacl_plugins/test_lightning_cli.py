"""The losses as an argument of a LightningModule: LightningCLI knows every option, and refuses a misspelt one."""

import argparse
import sys

import lightning as L
import pytest

import alphacl_lightly
import alphacl_plugins
from alphacl_plugins.strategies import Direct, Inverse, KLBall, LearnableTemperature

pytest.importorskip("jsonargparse", "4.50", reason="needs jsonargparse 4.50, which knows options without a default")

from lightning.pytorch.cli import LightningCLI  # needs jsonargparse

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:lightning")  # of jsonargparse, Lightning's own


class WithCore(L.LightningModule):
    def __init__(self, criterion: alphacl_plugins.AlphaCLLoss):
        super().__init__()
        self.criterion = criterion


class WithLightly(L.LightningModule):
    def __init__(self, criterion: alphacl_lightly.AlphaCLLoss):
        super().__init__()
        self.criterion = criterion


MODULES = {WithCore: alphacl_plugins.AlphaCLLoss, WithLightly: alphacl_lightly.AlphaCLLoss}


@pytest.fixture
def criterion_of(monkeypatch):
    """The criterion that a program with this module builds from ``--model.criterion.*`` options."""

    def build(module, *options):
        monkeypatch.setattr(sys, "argv", ["program", *(f"--model.criterion.{option}" for option in options)])
        return LightningCLI(
            module,
            run=False,
            seed_everything_default=False,
            trainer_defaults={"accelerator": "cpu", "logger": False, "enable_checkpointing": False},
            parser_kwargs={"exit_on_error": False},
        ).model.criterion

    return build


@pytest.mark.parametrize("module", MODULES)
def test_a_mask_at_the_command_line(criterion_of, module):
    assert repr(criterion_of(module, "strategy=uniform", "masked=0.2").strategy) == "Masked(Uniform(), margin=0.2)"


@pytest.mark.parametrize("module", MODULES)
@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["tau=0.2"], {"strategy": Direct(tau=0.2)}),
        (["strategy=inverse", "gamma=3", "tau=0.7"], {"strategy": Inverse(tau=0.7, gamma=3)}),
        (["strategy=kl_ball", "bounds=[0.1, 0.5]", "masked=false"], {"strategy": KLBall(bounds=(0.1, 0.5))}),
        (["strategy=alphacl_plugins.strategies.Direct", "p=6"], {"strategy": Direct(p=6)}),
        (
            ['strategy={"class_path": "alphacl_plugins.strategies.Direct", "init_args": {"p": 6}}'],
            {"strategy": Direct(p=6)},
        ),
        (["tau=0.2", "negatives=cross", "block_size=64"], {"negatives": "cross", "block_size": 64}),
        (["tau=0.2", "block_size=autograd", "symmetric=false"], {"block_size": "autograd", "symmetric": False}),
        (["tau=0.2", "strategy=infonce", "gather_distributed=ring"], {"gather_distributed": "ring"}),
    ],
)
def test_options_on_the_command_line_arrive(criterion_of, module, options, expected):
    criterion = criterion_of(module, *options)
    assert type(criterion) is MODULES[module]
    assert {name: getattr(criterion, name) for name in expected} == expected


@pytest.mark.parametrize("module", MODULES)
def test_a_temperature_that_learns_is_one_option(criterion_of, module):
    assert isinstance(criterion_of(module, "strategy=infonce", "learnable_tau=true").strategy, LearnableTemperature)


@pytest.mark.parametrize(("size", "shape"), [("[8, 3]", (8, 3)), ("8", (8, 0))])
def test_the_bank_of_the_lightly_form_is_an_option(criterion_of, size, shape):
    assert criterion_of(WithLightly, f"memory_bank_size={size}", "tau=0.2").memory_bank.embeddings.shape == shape


@pytest.mark.parametrize("module", MODULES)
@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["temprature=0.1"], "temprature"),
        (["tau=warm"], "tau"),
        (["tau=0.1", "reduction=sum"], "reduction"),
    ],
)
def test_a_wrong_option_is_refused(criterion_of, module, options, message):
    with pytest.raises(argparse.ArgumentError, match=message):
        criterion_of(module, *options)


@pytest.mark.parametrize("module", MODULES)
def test_the_option_of_another_strategy_is_refused(criterion_of, module):
    with pytest.raises(TypeError, match=r"direct: expected options among tau, p, normalize, got gamma"):
        criterion_of(module, "gamma=3")
