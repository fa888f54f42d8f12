"""The command line of a script: its options, and one line where a user can do something about an error.

Scripts import this module before any package that may be missing. A missing package then ends the program with one
line, wherever it is imported.
"""

import dataclasses
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

PACKAGES = {
    "examples": (
        "alphacl_plugins", "filelock", "kornia", "lightly", "lightning", "matplotlib", "numpy", "PIL", "rich", "scipy",
        "sklearn", "threadpoolctl", "timm", "torch", "torchvision", "tyro",
    ),
    "open-clip": ("open_clip",),
    "metric-learning": ("pytorch_metric_learning",),
    "sentence-transformers": ("datasets", "sentence_transformers", "tokenizers", "transformers"),
}  # fmt: skip
"""Extra of pyproject.toml -> what scripts import of it."""
EXTRAS = {package: extra for extra, packages in PACKAGES.items() for package in packages}
CLONE = Path(__file__).resolve().parents[1]

Options = TypeVar("Options")


def missing(error: BaseException | None) -> str | None:
    """Return one line that names a missing package and the command that installs it; None for any other error."""
    while error is not None:
        package = str(getattr(error, "name", None)).partition(".")[0]
        if isinstance(error, ModuleNotFoundError) and package in EXTRAS:
            script = Path(sys.argv[0]).resolve()
            own = "benchmarks" if script.parent == CLONE / "benchmarks" else "examples"
            extras = [own] if own == "benchmarks" or EXTRAS[package] == own else [own, EXTRAS[package]]
            clone = "." if Path.cwd() == CLONE else CLONE
            return f'{script.stem}: needs {error.name}: pip install "{clone}[{",".join(extras)}]"'
        error = error.__cause__
    return None


@contextmanager
def in_one_line(*more: type[Exception], goes_on: str = "") -> Iterator[None]:
    """End the program with one line where a user can do something about an error.

    Args:
        *more: further kinds of such errors.
        goes_on: how to go on after an interrupt, if that is possible.
    """
    errors: tuple[type[Exception], ...] = (ValueError, OSError, *more)
    caught: tuple[type[Exception], ...] = (ImportError, *errors)
    try:
        yield
    except caught as error:
        line = missing(error)
        if line is None and not isinstance(error, errors):
            raise
        sys.exit(line or f"error: {error}")
    except KeyboardInterrupt:  # between the trainings, each of which has its own answer
        print(f"interrupted; {goes_on}" if goes_on else "interrupted", file=sys.stderr)
        sys.exit(128 + signal.SIGINT)


def grouped(kind: type[Options], description: str | None, default: Options | None = None) -> Options:
    """Read the options of a dataclass that inherits all its fields, a box in the help for each of its bases.

    Args:
        kind: the dataclass; the docstrings of its bases, the last first, are shown above their options.
        description: of the script.
        default: the values of options that are not given. None: those of the class.

    Raises: ValueError from ``kind``, if options do not go together.
    """
    import tyro

    groups: dict[str, Any] = {base.__name__.lower(): base for base in reversed(kind.__bases__)}
    values = {} if default is None else vars(default)
    defaults = {
        name: base(**{one.name: values[one.name] for one in dataclasses.fields(base) if one.name in values})
        for name, base in groups.items()
    }
    line = dataclasses.make_dataclass("Line", [(name, groups[name], defaults[name]) for name in groups], frozen=True)
    found: Any = tyro.cli(line, description=description, config=(tyro.conf.OmitArgPrefixes,))
    return kind(**{name: value for group in groups for name, value in vars(getattr(found, group)).items()})


def _show(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    line = missing(error)
    if line is None:
        _usual(kind, error, trace)
    else:
        print(line, file=sys.stderr)


_usual = sys.excepthook
sys.excepthook = _show
