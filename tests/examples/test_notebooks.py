"""The notebooks of the manual: their cells run, and what they show was computed by them."""

import json
from pathlib import Path

import pytest
import torch

NOTEBOOKS = sorted((Path(__file__).parents[2] / "docs" / "notebooks").glob("*.ipynb"))


def cells(notebook):
    content = json.loads(notebook.read_text(encoding="utf-8"))
    return [cell for cell in content["cells"] if cell["cell_type"] == "code"]


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_every_cell_was_run_in_order(notebook):
    assert [cell["execution_count"] for cell in cells(notebook)] == list(range(1, len(cells(notebook)) + 1))
    outputs = [output for cell in cells(notebook) for output in cell["outputs"]]
    assert any("image/png" in output.get("data", {}) for output in outputs)
    assert not [output for output in outputs if output["output_type"] == "error" or output.get("name") == "stderr"]


@pytest.mark.slow
@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_the_cells_run_and_print_what_the_notebook_shows(notebook, capsys):
    pytest.importorskip("matplotlib")
    names, threads = {}, torch.get_num_threads()
    for cell in cells(notebook):
        exec(compile("".join(cell["source"]), notebook.name, "exec"), names)
        shown = ["".join(output["text"]) for output in cell["outputs"] if output["output_type"] == "stream"]
        printed = capsys.readouterr().out
        assert [line.split(":")[0] for line in printed.splitlines()] == [
            line.split(":")[0] for line in "".join(shown).splitlines()
        ] or printed.startswith("[")  # numbers differ by processor
    torch.set_num_threads(threads)
