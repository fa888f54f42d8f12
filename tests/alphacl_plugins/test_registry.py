"""Strategies by name."""

import typing
from dataclasses import dataclass

import pytest
import torch

from alphacl_plugins import AlphaCLLoss, PairWeights, build_strategy, register_strategy, strategies, strategy_names
from alphacl_plugins.strategies import StrategyOptions, registry, reserve_options, resolve_strategy


@dataclass(frozen=True)
class Nearest:
    """A strategy of a user's own."""

    share: float = 1.0

    def __call__(self, d2_pos, d2_neg):
        nearest = d2_neg.argmin(dim=1, keepdim=True)
        return PairWeights(torch.zeros_like(d2_neg).scatter(1, nearest, self.share))


@pytest.fixture(autouse=True)
def _registry_stays_as_it_is(monkeypatch):
    monkeypatch.setattr(registry, "_REGISTRY", dict(registry._REGISTRY))
    monkeypatch.setattr(registry, "_RESERVED", set(registry._RESERVED))


def test_the_names_are_those_of_the_design():
    family = {"infonce", "mine", "triplet", "soft_triplet", "n_plus_1_tuplet", "lifted_structured"}
    family |= {"modified_triplet", "triplet_contrastive"}
    others = {"entropy", "inverse", "inverse_exact", "square", "direct", "uniform", "dhel", "kcl"}
    others |= {"hardness", "dual_temperature", "adnce", "debiased", "sigmoid", "student_t", "rince"}
    others |= {"multi_similarity", "circle", "tsallis", "kl_ball", "dcl_weighted", "macl"}
    assert set(strategy_names()) == family | others


def test_defaults_are_those_of_the_papers():
    built = {name: build_strategy(name) for name in strategy_names()}
    assert built["infonce"] == strategies.InfoNCE(tau=0.5, eps=1.0)
    assert built["entropy"] == strategies.Entropy(tau=0.5)
    assert built["inverse"] == strategies.Inverse(tau=0.5, gamma=2.0)
    assert built["inverse_exact"] == strategies.InverseExact(tau=0.5, gamma=2.0)
    assert built["square"] == strategies.Square(tau=5.0)
    assert built["kl_ball"] == strategies.KLBall(rho=0.3, bounds=(0.05, 0.7))
    assert built["tsallis"] == strategies.Tsallis(index=1.5, tau=0.5)
    assert built["direct"] == strategies.Direct(tau=0.5, p=4.0, normalize=True)
    assert built["dhel"] == strategies.DHEL(tau=0.3, include_augs=True)
    assert built["kcl"] == strategies.KCL(kernel="gaussian", t=2.0, gamma=16.0)
    assert built["triplet"] == strategies.Triplet(eps=0.5)
    assert built["soft_triplet"] == strategies.SoftTriplet(tau=0.5, eps=0.0)
    assert built["lifted_structured"] == strategies.LiftedStructured(eps=1.0)
    assert built["modified_triplet"] == strategies.ModifiedTriplet(c=1.0)
    assert built["hardness"] == strategies.Hardness(tau=0.5, a=9.0)
    assert built["dual_temperature"] == strategies.DualTemperature(tau_alpha=0.1, tau_beta=1.0)
    assert built["adnce"] == strategies.ADNCE(tau=0.4, mu=0.7, sigma=0.5)
    assert built["debiased"] == strategies.Debiased(tau=0.5, tau_plus=0.1, beta=0.0, detach=True)
    assert built["sigmoid"] == strategies.Sigmoid(t=10.0, b=-10.0)
    assert built["student_t"] == strategies.StudentT(nu=1.0, t=1.0)
    assert built["rince"] == strategies.RINCE(tau=0.5, q=0.5, lam=0.01)
    assert built["multi_similarity"] == strategies.MultiSimilarity(alpha=2.0, beta=50.0, base=0.5)
    assert built["circle"] == strategies.Circle(m=0.4, gamma=80.0)


def test_a_registered_strategy_is_built_by_name_with_its_options():
    register_strategy("nearest")(Nearest)
    assert build_strategy("nearest", share=0.5) == Nearest(0.5)


def test_a_strategy_is_built_from_its_import_path():
    assert build_strategy("alphacl_plugins.strategies.direct.Direct", p=6.0) == strategies.Direct(p=6.0)


@pytest.mark.parametrize(
    ("name", "meant"),
    [("dcl", "entropy"), ("NT-Xent", "infonce"), ("infonse", "infonce"), ("SINCERE", "infonce"), ("HCL", "debiased")],
)
def test_a_name_used_elsewhere_leads_to_ours(name, meant):
    with pytest.raises(ValueError, match=rf"strategy: expected one of .*; did you mean '{meant}'\?"):
        build_strategy(name)


def test_a_name_of_the_same_loss_builds_it():
    assert build_strategy("FlatNCE", tau=0.2) == strategies.Entropy(tau=0.2)
    assert build_strategy("SigLIP") == strategies.Sigmoid()
    assert build_strategy("t-SimCNE") == strategies.StudentT()
    assert set(registry._ALIASES.values()) | set(registry._SYNONYMS.values()) <= set(strategy_names())


def test_a_name_is_taken_once():
    with pytest.raises(ValueError, match=r"name: expected a new one, got 'direct', which is .*Direct"):
        register_strategy("direct")(Nearest)


def test_an_option_may_not_be_named_like_one_of_the_loss():
    @dataclass(frozen=True)
    class Clash(Nearest):
        reduction: float = 1.0

    with pytest.raises(ValueError, match=r"clash: expected options other than the loss's own, got reduction"):
        register_strategy("clash")(Clash)


def test_every_option_of_the_losses_is_reserved():
    import inspect

    import alphacl_lightly
    import alphacl_plugins

    for loss in (alphacl_plugins.AlphaCLLoss, alphacl_lightly.AlphaCLLoss):
        named = [p.name for p in inspect.signature(loss).parameters.values() if p.kind is not p.VAR_KEYWORD]
        assert set(named) <= registry._RESERVED


def test_reserved_options_go_both_ways():
    reserve_options("share")
    with pytest.raises(ValueError, match=r"nearest: expected options other than the loss's own, got share"):
        register_strategy("nearest")(Nearest)
    with pytest.raises(ValueError, match=r"names: expected names that no strategy has .* got kernel, t of 'kcl"):
        reserve_options("mine", "t", "kernel")
    assert "mine" not in registry._RESERVED


def test_the_same_class_may_be_registered_again():
    def cell():
        @dataclass(frozen=True)
        class Mine(Nearest):
            pass

        return register_strategy("mine_too")(Mine)

    first, second = cell(), cell()
    assert first is not second
    assert type(build_strategy("mine_too")) is second


def test_options_are_those_of_the_registry():
    built = [build_strategy(name) for name in strategy_names()]
    hints = typing.get_type_hints(StrategyOptions)
    values = {field: getattr(strategy, field) for strategy in built for field in vars(strategy)}
    assert set(hints) == {*values, "learnable_tau", "learn", "effective_share", "masked"}
    kinds = {name: typing.get_origin(hints[name]) or hints[name] for name in values}
    assert kinds == {name: type(value) for name, value in values.items()}


def test_a_name_a_path_and_an_object_are_resolved():
    assert resolve_strategy("direct", {"p": 6.0}) == strategies.Direct(p=6.0)
    assert resolve_strategy("alphacl_plugins.strategies.direct.Direct") == strategies.Direct()
    assert isinstance(resolve_strategy("infonce", {"learnable_tau": True}), strategies.LearnableTemperature)
    for strategy in (strategies.Direct(), strategies.LearnableTemperature(strategies.InfoNCE()), Nearest(), torch.add):
        assert resolve_strategy(strategy) is strategy


@pytest.fixture
def _broken_package(tmp_path, monkeypatch):
    (tmp_path / "broken_pkg.py").write_text("import no_such_dependency\n")
    (tmp_path / "raising_pkg.py").write_text("raise RuntimeError('no licence')\n")
    monkeypatch.syspath_prepend(tmp_path)


@pytest.mark.usefixtures("_broken_package")
@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("no_pkg.MyAlpha", r"strategy: cannot import no_pkg: No module named 'no_pkg'"),
        ("broken_pkg.MyAlpha", r"strategy: cannot import broken_pkg: No module named 'no_such_dependency'"),
        ("raising_pkg.MyAlpha", r"strategy: cannot import raising_pkg: no licence"),
        ("math.MyAlpha", r"strategy: cannot import MyAlpha from math, which has no such name"),
        ("math..pi", r"strategy: expected an import path such as package.module.MyAlpha, got 'math..pi'"),
    ],
)
def test_an_import_path_that_fails_says_why(path, message):
    with pytest.raises(ImportError, match=message):
        build_strategy(path)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (
            lambda: build_strategy("direkt"),
            ValueError,
            r"strategy: expected one of adnce, .*'direkt'; did you mean 'direct'",
        ),
        (lambda: build_strategy("InfoNCE"), ValueError, r"got 'InfoNCE'; did you mean 'infonce'"),
        (lambda: build_strategy(".x"), ImportError, r"strategy: expected an import path .*, got '.x'"),
        (lambda: register_strategy("mine_too")(lambda a, b: a), TypeError, r"mine_too: expected a class of strategies"),
        (
            lambda: register_strategy("no_call")(dict),
            TypeError,
            r"no_call: expected a class with __call__\(.* got <class",
        ),
        (
            lambda: resolve_strategy("direkt", argument="alpha"),
            ValueError,
            r"alpha: expected one of .*'direkt'; did you",
        ),
        (
            lambda: resolve_strategy(strategies.InfoNCE, argument="alpha"),
            TypeError,
            r"alpha: expected a name or a strategy object, got <class .*; an object is made with brackets: InfoNCE\(\)",
        ),
        (
            lambda: resolve_strategy(0.5),
            TypeError,
            r"strategy: .* got 0.5; a temperature goes into the strategy: InfoN",
        ),
        (lambda: resolve_strategy(None), TypeError, r"strategy: expected a name or a strategy object, got None$"),
        (
            lambda: resolve_strategy(strategies.Uniform(), {"tau": 0.5, "p": 2}),
            TypeError,
            r"strategy: expected a name to go with the options tau, p, got Uniform\(\)",
        ),
        (
            lambda: resolve_strategy("direct", {"gamma": 3}),
            TypeError,
            r"direct: expected options among tau, p, normalize, go",
        ),
        (
            lambda: build_strategy("direct", learnable_tau=True),
            ValueError,
            r"^learnable_tau: expected False with Direct\(.* no loss of its own",
        ),
        (
            lambda: build_strategy("kcl", learnable_tau=True),
            ValueError,
            r"^learnable_tau: expected False with KCL\(.*, which has no temperature",
        ),
        (lambda: build_strategy("family"), ValueError, r"Family takes functions, so pass the object itself"),
        (
            lambda: build_strategy("direct", gamma=3),
            TypeError,
            r"direct: expected options among tau, p, normalize, got gam",
        ),
        (lambda: build_strategy("uniform", tau=3), TypeError, r"uniform: expected no options, got tau"),
        (
            lambda: build_strategy("infonce", temperature=1),
            TypeError,
            r"got temperature; the temperature is called tau",
        ),
        (lambda: build_strategy(0.5), TypeError, r"strategy: expected a name or an import path, got 0.5"),
        (
            lambda: build_strategy("no.such.Thing"),
            ImportError,
            r"strategy: cannot import no.such: No module named 'no'",
        ),
        (lambda: build_strategy("math.pi"), TypeError, r"strategy: expected a class at 'math.pi', got 3.14"),
        (lambda: register_strategy("a.b"), ValueError, r"name: expected a name without dots, got 'a.b'"),
        (lambda: register_strategy(Nearest), TypeError, r'name: expected a string, @register_strategy\("my_name"\)'),
    ],
)
def test_errors_say_what_was_expected(call, error, message):
    with pytest.raises(error, match=message):
        call()


@pytest.mark.parametrize("option", ["argument", "name", "options"])
def test_no_option_is_swallowed(option):
    with pytest.raises(TypeError, match=rf"infonce: expected options among tau, eps, got {option}"):
        AlphaCLLoss("infonce", **{option: "x"})


def nearest_only(d2_pos, d2_neg):
    return PairWeights(d2_neg == d2_neg.amin(dim=1, keepdim=True))


def test_a_function_by_its_path_is_told_apart_from_a_class():
    with pytest.raises(TypeError, match=r"expected a class at .*nearest_only', got a function; pass it itself"):
        AlphaCLLoss(f"{__name__}.nearest_only")
