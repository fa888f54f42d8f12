"""Which losses are compared: the rows of the table, what is fixed of each, and what is tuned."""

from dataclasses import dataclass
from itertools import product
from typing import Any

from alphacl_lightly import AlphaCLLoss
from paired.grids import sharpness_option, spread
from tables.paper import ROWS

Value = float | bool | str
Options = tuple[tuple[str, Value], ...]
BASELINE = "infonce"
MOST_TUNED = 2
"""Options of one row that may have several values: the temperature and one more."""


@dataclass(frozen=True)
class Loss:
    """A loss with every option that is not its own default."""

    strategy: str
    options: Options = ()

    @classmethod
    def of(cls, content: dict[str, Any]) -> "Loss":
        """Return the loss that the JSON of a run describes."""
        return cls(content["loss"]["strategy"], tuple(content["loss"]["options"].items()))

    def build(self) -> AlphaCLLoss:
        """Return the loss: lightly's adapter, as in any script that trains with lightly."""
        options: dict[str, Any] = dict(self.options)
        return AlphaCLLoss(self.strategy, **options)

    @property
    def label(self) -> str:
        """The loss in a few characters, for file names and messages."""
        return "-".join([self.strategy, *(f"{name}={_text(value)}" for name, value in self.options)])


@dataclass(frozen=True)
class Row:
    """A row of the table: a strategy, its fixed options, and the values to try of the others."""

    name: str
    strategy: str
    fixed: Options
    grid: tuple[tuple[str, tuple[Value, ...]], ...]

    @property
    def trials(self) -> list[Loss]:
        """Every combination of the values to try; one loss if there is nothing to tune."""
        names = [name for name, _ in self.grid]
        return [
            self.with_values(dict(zip(names, values, strict=True)))
            for values in product(*(values for _, values in self.grid))
        ]

    def with_values(self, values: dict[str, Value]) -> Loss:
        """Return the loss with these values of the tuned options."""
        return Loss(self.strategy, (*self.fixed, *values.items()))


def parse_row(text: str, trials: int) -> Row:
    """Read a row from the command line: ``NAME`` or ``NAME:option=value,option=value/value/...``.

    Args:
        text: a registered strategy or import path; then options, of which those with several values are tuned. If none
            is, and the option that sets the sharpness is not fixed, its values are those of `paired.grids.spread`.
        trials: how many values to try.

    Raises: ValueError, TypeError, ImportError if the strategy or an option of it is not as expected.

    >>> parse_row("direct:p=6,tau=0.5/0.1", trials=2).trials[1].label
    'direct-p=6-tau=0.1'
    """
    strategy, _, rest = text.partition(":")
    given = [_option(part) for part in rest.split(",")] if rest else []
    fixed = tuple((name, values[0]) for name, values in given if len(values) == 1)
    grid = tuple((name, values) for name, values in given if len(values) > 1)
    if len(grid) > MOST_TUNED:
        raise ValueError(f"strategies: expected at most {MOST_TUNED} options with several values, got {text}")
    name = ":".join(filter(None, [strategy, ",".join(f"{option}={_text(value)}" for option, value in fixed)]))
    Loss(strategy, fixed).build()
    option = sharpness_option(strategy, dict(fixed))
    if not grid and option is not None and option not in dict(fixed):
        grid = ((option, spread(strategy, dict(fixed), option, trials)),)
    row = Row(name, strategy, fixed, grid)
    for loss in row.trials:
        loss.build()
    return row


def parse_rows(texts: tuple[str, ...], trials: int) -> list[Row]:
    """Return the rows, InfoNCE first.

    Raises: ValueError if a row comes twice, or rows are tuned with different numbers of trials; and as `parse_row`.
    """
    rows = [parse_row(text, trials) for text in texts]
    if not any(row.name == BASELINE for row in rows):
        rows.insert(0, parse_row(BASELINE, trials))
    names = [row.name for row in rows]
    twice = [name for name in dict.fromkeys(names) if names.count(name) > 1]
    if twice:
        raise ValueError(f"strategies: expected each row once, got {', '.join(twice)} twice")
    for row in rows:
        if row.grid and len(row.trials) != trials:
            raise ValueError(
                f"strategies: expected {trials} values to try for each row (--trials), got {len(row.trials)} "
                f"for {row.name}"
            )
    return sorted(rows, key=lambda row: row.name != BASELINE)


def paper_rows() -> list[Row]:
    """Return the seven rows of the paper's Table 1, InfoNCE first, each with the paper's own options: none is tuned."""
    rows = []
    for name, row in ROWS.items():
        strategy = {"quadratic": "uniform", "backprop": "infonce"}.get(name, name)
        fixed: Options = () if row.detach_alpha else (("detach_alpha", False),)
        rows.append(Row(name, strategy, fixed, ()))
    return sorted(rows, key=lambda row: row.name != BASELINE)


def _option(text: str) -> tuple[str, tuple[Value, ...]]:
    name, equals, values = text.partition("=")
    if not (name.isidentifier() and equals and values):
        raise ValueError(f"strategies: expected NAME:option=value,..., got {text!r} for an option")
    return name, tuple(_value(value) for value in values.split("/"))


def _value(text: str) -> Value:
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    try:
        return float(text)
    except ValueError:
        return text


def _text(value: Value) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value).lower()
