"""The `loss` key: its forms, its errors, the line that says what is in force."""

import sys
from dataclasses import dataclass
from types import SimpleNamespace

import pytest
import torch
from solo_clone import METHODS, build, load_solo, needs_clone, small_config

from alphacl_plugins import PairWeights, strategies
from alphacl_plugins.loss import OPTIONS
from alphacl_solo_learn import register

pytestmark = needs_clone


@pytest.fixture(scope="module")
def solo():
    return load_solo()


@dataclass(frozen=True)
class UsersOwn:
    """A strategy that only an import path names."""

    share: float = 1.0

    def __call__(self, d2_pos, d2_neg):
        return PairWeights(neg=self.share * torch.softmax(-d2_neg, dim=1))


@pytest.fixture
def users_module(monkeypatch):
    monkeypatch.setitem(sys.modules, "users_module", SimpleNamespace(UsersOwn=UsersOwn))


def criterion(solo, method, loss, **changes):
    return build(solo.METHODS[method], small_config(method, loss=loss, **changes)).criterion


def test_the_bare_name_is_the_default_strategy(solo):
    got = criterion(solo, "simclr", "alpha_cl")
    assert got.strategy == strategies.Direct()
    assert (got.negatives, got.symmetric, got.gather_distributed) == ("both", True, True)


def test_a_mapping_holds_options_of_strategy_and_loss_together_and_null_is_the_default(solo):
    loss = {"name": "alpha_cl", "strategy": "inverse", "gamma": 3, "tau": None, "negatives": "same", "kernel": None}
    got = criterion(solo, "simclr", {**loss, "l2_normalize": None, "detach_alpha": False, "gather_distributed": False})
    assert got.strategy == strategies.Inverse(gamma=3)
    assert (got.negatives, got.l2_normalize, got.detach_alpha, got.gather_distributed) == ("same", True, False, False)


def test_bounds_are_a_list_and_a_mask_goes_around(solo):
    got = criterion(solo, "simclr", {"name": "alpha_cl", "strategy": "kl_ball", "bounds": [0.1, 1], "masked": 0.2})
    assert got.strategy.strategy == strategies.KLBall(bounds=(0.1, 1.0))
    assert got.strategy.margin == 0.2
    got = criterion(solo, "simclr", {"name": "alpha_cl", "strategy": "direct", "masked": False})
    assert got.strategy == strategies.Direct()


@pytest.mark.usefixtures("users_module")
def test_an_import_path_with_its_own_options(solo):
    got = criterion(solo, "simclr", {"name": "alpha_cl", "strategy": "users_module.UsersOwn", "share": 0.5})
    assert got.strategy == UsersOwn(share=0.5)


@pytest.mark.parametrize(
    ("method", "negatives", "symmetric"),
    [
        ("simclr", "same", True),
        ("supcon", "same", True),
        ("mocov2plus", "queue", False),
        ("mocov3", "cross", False),
        ("nnclr", "cross", False),
    ],
)
def test_what_a_method_decides_stands_above_what_a_strategy_declares(solo, method, negatives, symmetric):
    got = criterion(solo, method, {"name": "alpha_cl", "strategy": "dhel"})
    assert (got.negatives, got.symmetric) == (negatives, symmetric)


@pytest.mark.parametrize("given", [None, "autograd"])
def test_block_size_null_is_autograd_as_none_is_in_python(solo, given):
    got = criterion(solo, "simclr", {"name": "alpha_cl", "block_size": given})
    assert got.block_size == "autograd"
    assert criterion(solo, "simclr", {"name": "alpha_cl"}).block_size == "auto"


def test_the_kernel_is_asked_for_by_name(solo):
    got = criterion(solo, "mocov3", {"name": "alpha_cl", "strategy": "infonce", "block_size": "kernel"})
    assert got.block_size == "kernel"


def test_one_line_says_what_is_in_force_and_what_is_ignored(solo, capsys):
    criterion(solo, "simclr", {"name": "alpha_cl", "strategy": "infonce", "tau": 0.1})
    assert capsys.readouterr().out == (
        "simclr with loss alpha_cl: strategy=InfoNCE(tau=0.1, eps=1.0), negatives='both', symmetric=True, "
        "l2_normalize=True, detach_alpha=True, block_size='auto', gather_distributed=True, positives='all', "
        "positives_as_negatives=False, ignore_label=None, scale='paper'; "
        "ignored: method_kwargs.temperature=0.2\n"
    )
    criterion(solo, "simclr", {"name": "alpha_cl", "strategy": "infonce", "learnable_tau": True})
    assert capsys.readouterr().out.count("\n") == 1
    criterion(solo, "simclr", None)
    assert capsys.readouterr().out == ""


ERRORS = {
    "a misspelt strategy": ("simclr", {"strategy": "infonc"}, ValueError, "^loss: strategy: .*did you mean 'infonce'"),
    "a wrong import path": (
        "simclr",
        {"strategy": "no.such.Thing"},
        ImportError,
        "^loss: strategy: cannot import no.such: No module",
    ),
    "another strategy's option": (
        "simclr",
        {"gamma": 2.0},
        TypeError,
        f"^loss: direct: .*got gamma; the loss's own options are {', '.join(OPTIONS)}$",
    ),
    "a misspelt option": ("nnclr", {"negativs": "same"}, TypeError, "^loss: direct: expected options .*got negativs"),
    "an option of the loss of another kind": (
        "simclr",
        {"block_size": 0.5},
        TypeError,
        "^loss: block_size: expected .*, got 0.5$",
    ),
    "losses of single anchors": (
        "simclr",
        {"reduction": "none"},
        ValueError,
        "^loss.reduction: expected none with method simclr, .*, got 'none'",
    ),
    "a matrix in a ring": (
        "simclr",
        {"strategy": "infonce", "block_size": None, "gather_distributed": "ring"},
        ValueError,
        '^loss: block_size: expected .* with gather_distributed="ring"',
    ),
    "solo-learn's name for tau": ("simclr", {"temperature": 0.1}, TypeError, "the temperature is called tau"),
    "a value out of range": ("simclr", {"tau": -1.0}, ValueError, r"^loss: Direct.tau: .*got -1.0"),
    "a kind of negatives that is none": ("simclr", {"negatives": "all"}, ValueError, "^loss: negatives: .*got 'all'"),
    "a bank": (
        "simclr",
        {"memory_bank_size": 64},
        ValueError,
        "memory_bank_size: .*simclr; mocov2plus has a queue, supcon a bank$",
    ),
    "a bank beside the queue": (
        "mocov2plus",
        {"memory_bank_size": 64},
        ValueError,
        "its queue has method_kwargs.queue",
    ),
    "a bank of no rows": ("supcon", {"memory_bank_size": 0}, ValueError, "^loss.memory_bank_size: .* >= 1, got 0$"),
    "a scale without temperature": ("simclr", {"strategy": "uniform", "scale": "ntxent"}, ValueError, "^loss: scale: "),
    "a queue": (
        "mocov3",
        {"negatives": "queue"},
        ValueError,
        "^loss.negatives: .*with method mocov3, which has no que",
    ),
    "both directions at once": ("nnclr", {"symmetric": True}, ValueError, "^loss.symmetric: .*method nnclr.*got True"),
    "a tau that cannot learn": (
        "simclr",
        {"learnable_tau": True},
        ValueError,
        "^loss: learnable_tau: expected False with D",
    ),
}


@pytest.mark.parametrize("error", ERRORS)
def test_a_wrong_option_is_one_readable_error_before_anything_is_built(solo, error, monkeypatch):
    method, options, kind, message = ERRORS[error]
    monkeypatch.setitem(solo.BaseMethod._BACKBONES, "tiny", None)
    with pytest.raises(kind, match=message):
        criterion(solo, method, {"name": "alpha_cl", **options})


@pytest.mark.parametrize("loss", ["alphacl", {"strategy": "direct"}, {"name": "infonce"}, 0.5])
def test_another_loss_is_an_error_where_alpha_cl_would_be_possible(solo, loss):
    with pytest.raises(ValueError, match=r"^loss: expected alpha_cl, or a mapping such as {name: alpha_cl, .*, got"):
        criterion(solo, "supcon", loss)


@pytest.mark.parametrize("loss", ["alpha_cl", {"name": "alpha_cl", "strategy": "inverse"}])
@pytest.mark.parametrize("method", ["barlow_twins", "byol", "swav", "mae", "dino"])
def test_a_method_without_a_contrastive_loss_names_those_that_have_one(solo, method, loss):
    names = ", ".join([*METHODS, "alpha_cl"])
    with pytest.raises(ValueError, match=f"^loss: expected alpha_cl with a method among {names}, got method {method}$"):
        build(solo.METHODS[method], small_config(method, loss=loss))


@pytest.mark.parametrize(
    ("place", "loss"),
    [("method_kwargs", "alpha_cl"), ("method_kwargs", {"name": "alpha_cl", "strategy": "inverse"}),
     ("optimizer.kwargs", "alpha_cl")],
)  # fmt: skip
@pytest.mark.parametrize("method", ["simclr", "byol", "alpha_cl"])
def test_a_loss_named_in_another_place_is_an_error(solo, method, place, loss):
    from omegaconf import OmegaConf

    cfg = small_config(method)
    OmegaConf.update(cfg, f"{place}.loss", loss)
    with pytest.raises(ValueError, match=f"^loss: expected at the top of the config, got {place}.loss: alpha_cl$"):
        build(solo.METHODS[method], cfg)


def test_a_key_of_that_name_that_is_not_ours_is_left_to_other_methods(solo):
    assert not hasattr(build(solo.METHODS["simsiam"], small_config("simsiam", loss="my_own")), "criterion")


def renamed(z, indexes, temperature):
    """What another version of solo-learn might call its loss."""


def other_arguments(z, temperature):
    """What another version of solo-learn might give its loss."""


class Renamed:
    """A method of such a version."""

    def training_step(self, batch, batch_idx):
        return renamed(batch, batch_idx, 0.1)


class OtherArguments:
    """A method of such a version."""

    def training_step(self, batch, batch_idx):
        return simclr_loss_func(batch, 0.1)


simclr_loss_func = other_arguments


@pytest.mark.parametrize("method", [Renamed, OtherArguments, object])
def test_another_interface_is_an_error_that_names_the_versions_tried(solo, monkeypatch, method):
    monkeypatch.setattr(solo, "METHODS", {**solo.METHODS, "simclr": method})
    with pytest.raises(
        ImportError, match=r"calls simclr_loss_func\(z, indexes, temperature\), as in .* tried: 1\.0\.6"
    ):
        register()


def test_a_solo_learn_without_its_tables_is_an_error_that_names_the_versions_tried(solo, monkeypatch):
    originals = zip(METHODS, (solo.SimCLR, solo.SupCon, solo.MoCoV2Plus, solo.MoCoV3, solo.NNCLR), strict=True)
    monkeypatch.setattr(solo, "METHODS", dict(originals))
    monkeypatch.setattr(solo.BaseMethod, "_BACKBONES", None)
    with pytest.raises(ImportError, match=r"a table BaseMethod._BACKBONES, as in the versions tried: 1\.0\.6"):
        register()
    monkeypatch.delattr(solo, "METHODS")
    with pytest.raises(
        ImportError, match=r"needs solo-learn, tried 1\.0\.6 .*pip install 'alphacl-plugins\[solo-learn\]'"
    ):
        register()


def test_registering_again_changes_nothing(solo):
    before = dict(solo.METHODS)
    backbones = solo.BaseMethod._BACKBONES
    register()
    assert before == solo.METHODS
    assert solo.BaseMethod._BACKBONES is backbones
    assert {"base": solo.BaseMethod, "linear": solo.LinearModel}.items() <= solo.METHODS.items()
