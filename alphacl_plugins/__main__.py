"""``python -m alphacl_plugins strategies``: how sharp each strategy is."""

from __future__ import annotations

import argparse
import io
import sys
from collections.abc import Sequence

from alphacl_plugins.sharpness import strategy_table


def main(arguments: Sequence[str] | None = None) -> None:
    """Print what was asked for; a mistake ends the program with one line."""
    parser = argparse.ArgumentParser(prog="python -m alphacl_plugins", description="α-CL at the command line.")
    commands = parser.add_subparsers(required=True)
    table = commands.add_parser(
        "strategies",
        help="how sharp each strategy is",
        description="Effective negatives, local temperature and the curve α(D) on simulated distances.",
    )
    table.add_argument("names", nargs="*", metavar="NAME", help="name or import path, as infonce:tau=0.1; without: all")
    table.add_argument("--negatives", type=int, default=254, help="of an anchor (default: 254, a batch of 128)")
    table.add_argument("--mean", type=float, default=1.0, help="mean D of the negatives (default: 1)")
    table.add_argument("--spread", type=float, default=0.15, help="standard deviation of their D (default: 0.15)")
    table.add_argument("--positive", type=float, default=0.2, help="D of the positive (default: 0.2)")
    asked = parser.parse_args(arguments)
    numbers = {name: getattr(asked, name) for name in ("negatives", "mean", "spread", "positive")}
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # a terminal without α
    try:
        print(strategy_table(asked.names, **numbers))
    except (ImportError, TypeError, ValueError) as error:
        table.error(str(error))


if __name__ == "__main__":
    main()
