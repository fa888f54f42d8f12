"""The Python of the manual's page on pairs runs as it stands there; its picture and its known values are right."""

import re
from pathlib import Path

import pytest
import torch

from pairs import main, roles, situations

PAGE = (Path(__file__).parents[2] / "docs" / "pairs.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```python\n(.*?)^```$", PAGE, flags=re.DOTALL | re.MULTILINE)


@pytest.mark.parametrize("code", BLOCKS, ids=re.findall(r"^## (.*)\n+(?:(?!^## )[^`]|`(?!``))*^```python", PAGE, re.M))
def test_a_snippet_runs_and_prints_losses(code, capsys):
    exec(compile(code, "pairs.md", "exec"), {})
    printed = [float(x) for x in re.findall(r"tensor\((-?\d+\.\d+)", capsys.readouterr().out)]
    assert printed
    assert torch.tensor(printed).isfinite().all()
    if "1.2238" in code:
        assert printed == [1.2238, 1.2238]


def test_the_picture_shows_who_is_compared_with_whom():
    drawn = {situation.name: roles(situation) for situation in situations()}
    eye, ones = torch.eye(4, dtype=torch.float64), torch.ones(4, 4, dtype=torch.float64)
    half = torch.cat([1 - eye, 1 - 2 * eye], dim=1)
    assert torch.equal(drawn["SimCLR"], torch.cat([half, half.roll(4, dims=1)]))
    assert torch.equal(drawn["CLIP"], torch.cat([1 - 2 * eye, 1 - 2 * eye]))
    assert torch.equal(drawn["MoCo"], torch.ones(4, 5, dtype=torch.float64))
    one_view = torch.tensor([[0, -1, 1, 1], [-1, 0, 1, 1], [0, 0, 0, 0], [0, 0, 0, 0]], dtype=torch.float64)
    assert torch.equal(drawn["SupCon, one view"], one_view)
    across = torch.tensor([[-1, -1, 1, 1], [-1, -1, 1, 1], [1, 1, -1, 1], [1, 1, 1, -1]], dtype=torch.float64)
    assert torch.equal(
        drawn["captions"], torch.cat([torch.cat([0 * ones, across], 1), torch.cat([across, 0 * ones], 1)])
    )
    assert torch.equal(drawn["hard negatives"], torch.cat([1 - 2 * eye, ones[:, :2]], dim=1))
    q = torch.tensor([0.4, 0.3, 0.2, 0.1], dtype=torch.float64)
    expected = torch.where(eye > 0, -1.0, q[:, None] / q)
    torch.testing.assert_close(drawn["log-q"], expected, rtol=1e-6, atol=0)


def test_the_picture_is_drawn(tmp_path):
    main(tmp_path / "pairs.png")
    assert (tmp_path / "pairs.png").stat().st_size > 10_000
