"""The files that `benchmarks/gpu.py` leaves: whole at any moment, and up to date with the latest row."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gpu_steps.cells import Cell, Row
from loss import Settings as LossSettings
from loss import write as write_losses
from loss_peers import PACKAGES
from provenance import environment, write_json


def about() -> dict[str, Any]:
    """Return hardware, versions and commit, with what GPUs need and the peers of the losses."""
    return environment(*PACKAGES, "triton")


class Report:
    """gpu.json: each step with its state ("running", "finished", "cut off", "failed", "left out"), time and rows.

    Args:
        folder: where it goes.
        settings: of the run, for the file.
    """

    def __init__(self, folder: Path, settings: dict[str, Any]) -> None:
        self.folder = folder
        self.steps: dict[str, dict[str, Any]] = {}
        self.content = {"settings": settings, "environment": about(), "steps": self.steps}
        self._began = 0.0
        self.save()

    def begin(self, step: str, what: str, seconds: float) -> None:
        """Add a step that runs from now on, for so many seconds at most."""
        self._began = time.monotonic()
        self.steps[step] = {"what": what, "state": "running", "seconds_given": round(seconds, 1), "rows": []}
        self.save()

    def add(self, step: str, cell: Cell, rows: Sequence[Row]) -> None:
        """Add the rows of a cell; one without a result says which cell it was."""
        self.steps[step]["rows"] += [cell | row if row.keys() == {"failed"} else row for row in rows]
        self.save()

    def end(self, step: str, state: str, **more: Any) -> None:
        """Say how a step ended."""
        self.steps[step] |= {"state": state, "seconds": round(time.monotonic() - self._began, 1), **more}
        self.save()

    def leave_out(self, step: str, what: str, why: str) -> None:
        """Add a step that is not run."""
        self.steps[step] = {"what": what, "state": "left out", "why": why, "rows": []}
        self.save()

    def in_words(self, step: str) -> str:
        """Return a line about a step that has ended."""
        found = self.steps[step]
        failed, left_out = sum("failed" in row for row in found["rows"]), len(found.get("left_out", []))
        parts = [f"{step}: {found['state']}", found.get("failed") or found.get("why"), f"{len(found['rows'])} rows"]
        parts += [f"{failed} of them failed" if failed else None, f"{left_out} cells left out" if left_out else None]
        parts += [f"{found['seconds']} s" if "seconds" in found else None]
        return ", ".join(filter(None, parts))

    def save(self) -> None:
        """Write gpu.json."""
        write_json(self.folder / "gpu.json", self.content)

    def save_losses(self) -> None:
        """Write the results of the losses in float32 as `benchmarks/loss.py` does: loss.{json,md,png}."""
        rows = [row for row in self.steps["losses"]["rows"] if row.get("matmul_precision") == "highest"]
        if not rows:
            return
        ceilings = {row["what"]: row for row in self.steps.get("ceilings", {"rows": []})["rows"] if "what" in row}
        rate = ceilings.get("float32", {}).get("TFLOP_per_second") if rows[0]["device"] == "cuda" else None
        used: dict[str, Any] = {
            name: tuple(dict.fromkeys(row[column] for row in rows))
            for name, column in (("sizes", "size"), ("widths", "width"), ("losses", "loss"))
        }
        settings = LossSettings(**used, threads=rows[0]["threads"], output=self.folder / "loss")
        write_losses(rows, settings, None if rate is None else 1e12 * rate)
