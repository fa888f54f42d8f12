"""``python -m alphacl_plugins strategies`` and its function."""

import math
import os
import subprocess
import sys

import pytest
import torch

from alphacl_plugins import strategy_names
from alphacl_plugins.__main__ import main
from alphacl_plugins.sharpness import strategy_table


def cells(table):
    """The rows under the head, by the strategy's text."""
    return {line.split()[0]: line.split()[1:] for line in table.splitlines()[2:]}


def test_every_registered_strategy_has_a_row_of_numbers():
    table = strategy_table(negatives=20)
    assert list(cells(table)) == strategy_names()
    for effective, *_ in cells(table).values():
        assert 0 <= float(effective) <= 20
    assert len({len(line) for line in table.splitlines()[1:]}) == 1


def test_local_temperatures_are_those_of_the_formulas():
    table = strategy_table(["entropy:tau=0.2", "direct:tau=0.5,p=4", "inverse:tau=0.5,gamma=2", "uniform"], mean=0.8)
    local = {name: row[1] for name, row in cells(table).items()}
    assert local["entropy:tau=0.2"] == "0.20"
    assert local["direct:tau=0.5,p=4"] == f"{0.5 / (2 * 0.8):.2f}"  # D²/τ
    assert local["inverse:tau=0.5,gamma=2"] == f"{(0.8 + 0.5) / 2:.2f}"
    assert local["uniform"] == "inf"


def test_numbers_are_those_of_the_softmax():
    """Where D is normal, ``KL(α ‖ 1/K)`` is s²/(2τ²) and the mean of exp(-D/τ) is exp(-m/τ + s²/(2τ²)), for large K."""
    row = cells(strategy_table(["entropy:tau=0.2"], negatives=1000, spread=0.1))["entropy:tau=0.2"]
    assert float(row[0]) == pytest.approx(1000 * math.exp(-1 / 8), rel=0.01)
    for step, shown in zip((-3, -2, -1, 0, 1, 2), row[2:], strict=True):
        assert float(shown) == pytest.approx(math.exp(-step / 2 - 1 / 8), rel=0.03)


def test_numbers_do_not_change_from_call_to_call():
    torch.manual_seed(1)
    first, state = strategy_table(["direct"]), torch.get_rng_state()
    torch.manual_seed(2)
    assert strategy_table(["direct"]) == first
    torch.manual_seed(1)
    assert torch.equal(torch.get_rng_state(), state)  # and the caller's generator is not used


def test_options_of_any_kind():
    names = ["kcl:kernel=imq", "kl_ball:rho=0.5,bounds=(0.01,1)", "direct:normalize=False", "infonce:masked=0.1"]
    names += ["alphacl_plugins.strategies.direct.Direct:p=6"]
    assert list(cells(strategy_table(names, negatives=10))) == names


def test_weights_that_are_0_at_the_mean_have_no_local_temperature():
    assert cells(strategy_table(["square:tau=0.1"]))["square:tau=0.1"][1] == "-"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("infnce", r"strategy: expected one of .* did you mean 'infonce'"),
        ("infonce:0.1", r"strategy: expected name:option=value,..., such as infonce:tau=0.1, got 'infonce:0.1'"),
        ("infonce:tau=", r"strategy: expected name:option=value"),
        ("infonce:tau=print(1)", r"strategy: expected name:option=value"),
        ("infonce:**x", r"strategy: expected name:option=value"),
        ("infonce:tau=-1", r"InfoNCE.tau: expected a finite number > 0, got -1"),
    ],
)
def test_mistakes_are_named(text, message):
    with pytest.raises(ValueError, match=message):
        strategy_table([text])


@pytest.mark.parametrize(
    ("numbers", "message"),
    [
        ({"negatives": 1}, r"negatives: expected an int >= 2, got 1"),
        ({"spread": 0.0}, r"spread: expected a finite number > 0, got 0.0"),
        ({"positive": -0.1}, r"positive: expected a finite number >= 0, got -0.1"),
    ],
)
def test_bad_numbers_are_refused(numbers, message):
    with pytest.raises(ValueError, match=message):
        strategy_table(["direct"], **numbers)


def test_the_command_prints_the_table(capsys):
    main(["strategies", "direct", "uniform", "--negatives", "30", "--spread", "0.2"])
    assert capsys.readouterr().out == strategy_table(["direct", "uniform"], negatives=30, spread=0.2) + "\n"


def test_the_command_names_a_mistake_in_one_line(capsys):
    with pytest.raises(SystemExit, match="2"):
        main(["strategies", "direct:q=1"])
    assert "error: direct: expected options among tau, p, normalize, got q\n" in capsys.readouterr().err


@pytest.mark.slow
def test_python_m_runs_it_whatever_the_encoding():
    for encoding in ("utf-8", "ascii"):
        environment = {**os.environ, "PYTHONIOENCODING": encoding}
        command = [sys.executable, "-m", "alphacl_plugins", "strategies", "direct"]
        done = subprocess.run(command, env=environment, capture_output=True, check=True)
        assert b"direct" in done.stdout


@pytest.mark.parametrize(
    ("strategies", "error", "message"),
    [
        ("infonce", TypeError, "strategies: expected a list of names, got 'infonce'"),
        ([3], TypeError, "strategies: expected a list of names"),
        (["infonce:tau=.1,tau=.2"], ValueError, "strategy: expected name:option=value"),
        (["infonce:name=1"], TypeError, "infonce: expected options among"),
        (["infonce:effective_share=.2"], ValueError, "effective_share: expected a strategy that a loss has seen"),
    ],
)
def test_odd_input_names_itself(strategies, error, message):
    with pytest.raises(error, match=message):
        strategy_table(strategies)
