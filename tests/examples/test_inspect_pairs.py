"""The pairs with the largest α, by loops; and the pages that show them, in a real browser."""

import csv
import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import torch
from digits_folder import write_digits
from PIL import Image

from alphacl_plugins.sharpness import strategy_from_text
from alphacl_plugins.strategies import PairWeights
from alphacl_timm import create_backbone
from inspected import pairs
from inspected import run as inspected_run
from inspected.pairs import heaviest_pairs
from inspected.run import images_of, main
from inspected.settings import Settings

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)
STRATEGIES = ("infonce:tau=0.1", "direct", "square", "triplet", "kl_ball", "dcl_weighted", "macl")


@pytest.mark.parametrize("name", STRATEGIES)
@pytest.mark.parametrize("at_once", [1, 40, 10**6])
def test_the_heaviest_pairs_by_loops(monkeypatch, name, at_once):
    monkeypatch.setattr(pairs, "AT_ONCE", at_once)
    generator = torch.Generator().manual_seed(0)
    z, noise = (torch.randn(13, 3, generator=generator, dtype=torch.float64) for _ in range(2))
    unit, other = (torch.nn.functional.normalize(x) for x in (z, z + 0.3 * noise))
    strategy = strategy_from_text(name)
    d2_pos = (unit - other).square().sum(dim=1) / 2
    rule = strategy.on_batch(d2_pos, torch.ones(13, dtype=torch.float64)) if strategy.uses_batch else strategy
    weight, total = {}, 0.0
    for i in range(13):
        others = [j for j in range(13) if j != i]
        d2 = torch.stack([(unit[i] - unit[j]).square().sum() / 2 for j in others])
        for j, alpha in zip(others, rule(d2_pos[i : i + 1], d2[None]).neg[0].tolist(), strict=True):
            total += alpha
            weight[min(i, j), max(i, j)] = max(weight.get((min(i, j), max(i, j)), 0.0), alpha)
    expected = sorted(weight.items(), key=lambda item: -item[1])[:10]
    found = heaviest_pairs(z, z + 0.3 * noise, strategy, 10)
    for pair, ((a, b), alpha) in zip(found, expected, strict=True):
        assert pair.weight == pytest.approx(alpha / (total / (13 * 12)), rel=1e-9)
        assert (pair.a, pair.b) == (a, b) or alpha == pytest.approx(weight[pair.a, pair.b], rel=1e-9)
        assert pair.cosine == pytest.approx(float(unit[pair.a] @ unit[pair.b]), abs=1e-12)


def test_a_strategy_that_tells_no_pairs_apart_is_an_error():
    z = torch.randn(6, 3)
    with pytest.raises(ValueError, match=r"strategies: expected one that weighs pairs by their distance, got Uniform"):
        heaviest_pairs(z, z, strategy_from_text("uniform"), 3)
    with pytest.raises(ValueError, match="strategies: expected one that weighs pairs"):
        heaviest_pairs(z, z, lambda pos, neg: PairWeights(torch.zeros_like(neg)), 3)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Digits of which eight are copied into other classes, the weights of a backbone, and what the script makes."""
    root = tmp_path_factory.mktemp("inspected")
    write_digits(root / "digits", train=12)
    for digit in range(8):
        copy = root / "digits" / "train" / str(9 - digit) / f"copy-of-{digit}.png"
        shutil.copy(root / "digits" / "train" / str(digit) / "003.png", copy)
    torch.manual_seed(0)
    torch.save(create_backbone("test_resnet", 32).state_dict(), root / "weights.pth")
    main(settings(root))
    return root


def settings(root: Path, **changes):
    given = {
        "data_root": root / "digits",
        "checkpoint": root / "weights.pth",
        "backbone": "test_resnet",
        "strategies": ("infonce:tau=0.05", "square"),
        "pairs": 20,
        "output": root / "pages",
    }
    return Settings(**given | changes)


def lines(root):
    with open(root / "pages" / "pairs.csv", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_the_table_has_the_copies(made):
    found = lines(made)
    assert [int(row["rank"]) for row in found] == [*range(1, 21)] * 2
    copies = [
        row for row in found if "copy-of" in row["file_a"] + row["file_b"] and float(row["pixel_difference"]) == 0
    ]
    assert {row["strategy"] for row in copies} == {"infonce:tau=0.05", "square"}
    assert {row["same_class"] for row in copies} == {"no"}
    assert all(float(row["cosine"]) == pytest.approx(1, abs=1e-5) for row in copies)
    assert all((made / "digits" / "train" / row["file_b"]).exists() for row in found)
    for row in found:
        assert row["same_class"] == ("yes" if row["class_a"] == row["class_b"] else "no")


def test_the_sheets_can_be_looked_at(made):
    for name in ("infonce-tau=0.05", "square"):
        with Image.open(made / "pages" / f"{name}.png") as sheet:
            assert sheet.size == (830, 34 + 4 * 112)
            assert len(sheet.convert("L").getcolors()) > 50


def test_the_page_has_every_pair_and_needs_no_other_file(made):
    page = (made / "pages" / "pairs.html").read_text(encoding="utf-8")
    assert page.count("<tr class=") == 40
    assert page.count('src="data:image/') == 80
    assert not re.search(r'(src|href)="(?!data:)', page)


def in_the_browser(page: str, folder: Path, action: str) -> list[list[str]]:
    """Open a page, run what a user does, and return the text of the rows that are seen."""
    file = folder / "page.html"
    file.write_text(page.replace("</html>", f"<script>{action}</script></html>"), encoding="utf-8")
    command = [
        BROWSER,
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        f"--user-data-dir={folder}/profile",
        "--dump-dom",
    ]
    dom = subprocess.run([*command, file.as_uri()], capture_output=True, text=True, timeout=120, check=True).stdout
    rows = re.findall(r"<tr class=\"[a-z]*\"([^>]*)>(.*?)</tr>", dom, flags=re.DOTALL)
    return [re.findall(r"<td>(.*?)</td>", row, flags=re.DOTALL) for hidden, row in rows if "hidden" not in hidden]


@pytest.mark.slow
@pytest.mark.skipif(BROWSER is None, reason="needs a browser: chromium or google-chrome on the path")
def test_the_page_sorts_and_filters_in_a_browser(made, tmp_path):
    page, found = (made / "pages" / "pairs.html").read_text(encoding="utf-8"), lines(made)
    click = "document.querySelectorAll('th')[3].click();"
    for action, sign in ((click, 1), (2 * click, -1)):
        cosines = [float(row[3]) for row in in_the_browser(page, tmp_path, action)]
        assert cosines == sorted((round(float(row["cosine"]), 4) for row in found), key=lambda x: sign * x)
    files = [row[7] for row in in_the_browser(page, tmp_path, click.replace("[3]", "[7]"))]
    assert sorted(files) == files
    assert len(files) == 40
    choose = "const s = document.getElementById('strategy'); s.value = 'square'; s.dispatchEvent(new Event('change'));"
    assert {row[0] for row in in_the_browser(page, tmp_path, choose)} == {"square"}


def test_folders(tmp_path):
    write_digits(tmp_path / "digits", train=3)
    root, files, classes = images_of(settings(tmp_path))
    assert (root.name, len(files), len(set(classes))) == ("train", 30, 10)
    assert len(images_of(settings(tmp_path, limit=7))[1]) == 7
    assert set(images_of(settings(tmp_path, data_root=tmp_path / "digits" / "train" / "4"))[2]) == {""}


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"pairs": 0}, ValueError, "pairs: expected an int >= 1, got 0"),
        ({"backbone": None, "checkpoint": None}, ValueError, "checkpoint: expected a file, or a timm model"),
        ({"checkpoint": None}, ValueError, "checkpoint: expected weights of the backbone, or --pretrained"),
        ({"pretrained": True}, ValueError, "pretrained: expected --backbone, and no checkpoint"),
        ({"backbone": None}, ValueError, "checkpoint: expected one of a recipe"),
        ({"backbone": "resnet10t"}, ValueError, "checkpoint: expected weights of resnet10t, got others"),
        (
            {"backbone": None, "image_size": 8},
            ValueError,
            "image_size: expected none, as the checkpoint has one, got 8",
        ),
        ({"data_root": Path("nowhere")}, FileNotFoundError, "data_root: expected a folder, got nowhere"),
        ({"strategies": ("infonse",)}, ValueError, "infonse.*infonce"),
    ],
)
def test_errors_say_what_was_expected(made, changes, error, message):
    with pytest.raises(error, match=message):
        main(settings(made, **changes))


def test_a_checkpoint_of_a_recipe_brings_its_head(made, monkeypatch, tmp_path):
    from recipe.network import Network
    from recipe.protocol import DATASETS

    torch.manual_seed(0)
    network = Network("test_resnet", 32, DATASETS["cifar10"].mean, DATASETS["cifar10"].std)
    run = {"data": {"image_size": 32}, "dataset": "cifar10"}
    monkeypatch.setattr(inspected_run, "read_network", lambda checkpoint: (network, run))
    built, size, data = inspected_run.build(settings(made, backbone=None))
    assert built(torch.zeros(2, 3, size, size)).shape == (2, 128)
    assert data == "cifar10"


def test_the_manuals_table_of_copies_is_that_of_its_json():
    docs = Path(__file__).parents[2] / "docs"
    found = json.loads((docs / "monitor" / "copies.json").read_text())["found"]
    page = (docs / "monitor.md").read_text(encoding="utf-8")
    assert len(found) == 11
    for strategy, numbers in found.items():
        assert f"| {strategy} | {numbers['copies']} | {numbers['one_class']} |" in page
