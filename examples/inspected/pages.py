"""What shows pairs of images: a CSV file, a page for a browser, and a sheet to look at or print."""

import base64
import csv
import io
import string
from collections.abc import Sequence
from functools import lru_cache
from html import escape
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from inspected.pairs import Pair
from pixel_depth import to_rgb
from provenance import replace_file, write_text

PAGE = Path(__file__).with_name("page.html")
THUMBNAIL = 96
"""Longest side of an image on the page, in pixels; smaller ones are enlarged without smoothing."""
COLUMNS, CELL, GAP, CAPTION = 5, 72, 10, 30
"""Of the sheet: pairs beside each other, and pixels."""
SAME, OTHER, INK = "#D55E00", "#0072B2", "#222222"


class Shown(NamedTuple):
    """A pair with what is known of its images; classes are empty without labels."""

    rank: int
    pair: Pair
    a: Path
    b: Path
    class_a: str
    class_b: str
    difference: float
    """Mean absolute difference of the pixels, of 0 to 255: near 0 for copies."""

    @property
    def same(self) -> str:
        """Whether the classes are the same: yes, no, or nothing if unknown."""
        return "" if not self.class_a else "yes" if self.class_a == self.class_b else "no"


def shown(pairs: Sequence[Pair], root: Path, files: Sequence[Path], classes: Sequence[str]) -> list[Shown]:
    """Look up the files and classes of pairs, and compare their pixels."""
    return [
        Shown(
            rank,
            pair,
            files[pair.a].relative_to(root),
            files[pair.b].relative_to(root),
            classes[pair.a],
            classes[pair.b],
            float(np.abs(np.subtract(*(np.asarray(small(files[i], CELL), float) for i in (pair.a, pair.b)))).mean()),
        )
        for rank, pair in enumerate(pairs, 1)
    ]


@lru_cache(maxsize=4096)
def small(file: Path, side: int) -> Image.Image:
    """Read an image and fit it into a square, filled up with white."""
    with Image.open(file) as image:
        rgb: Image.Image = to_rgb(image)
    scale = side / max(rgb.size)
    size = (max(1, round(rgb.width * scale)), max(1, round(rgb.height * scale)))
    square = Image.new("RGB", (side, side), "white")
    resized = rgb.resize(size, Image.Resampling.NEAREST if scale > 1 else Image.Resampling.LANCZOS)
    square.paste(resized, ((side - size[0]) // 2, (side - size[1]) // 2))
    return square


def write_csv(file: Path, found: dict[str, list[Shown]]) -> None:
    """Write a line for each pair of each strategy."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    head = "strategy rank weight cosine pixel_difference same_class file_a class_a file_b class_b"
    writer.writerow(head.split())
    for strategy, rows in found.items():
        for row in rows:
            numbers = (f"{row.pair.weight:.6g}", f"{row.pair.cosine:.6f}", f"{row.difference:.2f}")
            files = (row.a.as_posix(), row.class_a, row.b.as_posix(), row.class_b)
            writer.writerow([strategy, row.rank, *numbers, row.same, *files])
    write_text(file, text.getvalue())


def write_page(file: Path, found: dict[str, list[Shown]], root: Path, title: str) -> None:
    """Write one HTML file with everything in it: a table that a click on a column's head sorts."""
    rows = "\n".join(_row(strategy, row, root) for strategy, of_one in found.items() for row in of_one)
    names = "".join(f"<option>{escape(strategy)}</option>" for strategy in found)
    page = string.Template(PAGE.read_text(encoding="utf-8"))
    write_text(file, page.substitute(title=escape(title), strategies=names, rows=rows))


def _row(strategy: str, row: Shown, root: Path) -> str:
    weight, cosine, difference = f"{row.pair.weight:.4g}", f"{row.pair.cosine:.4f}", f"{row.difference:.1f}"
    cells = [escape(strategy), row.rank, weight, cosine, difference, row.same]
    for file, name in ((row.a, row.class_a), (row.b, row.class_b)):
        cells += [f'<img src="{_embedded(root / file)}" alt="">', escape(file.as_posix()), escape(name)]
    return f'<tr class="{row.same}">' + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>"


@lru_cache(maxsize=4096)
def _embedded(file: Path) -> str:
    data = io.BytesIO()
    with Image.open(file) as image:
        kind = "PNG" if max(image.size) < THUMBNAIL else "JPEG"  # which would blur what is enlarged
    small(file, THUMBNAIL).save(data, kind)
    return f"data:image/{kind.lower()};base64,{base64.b64encode(data.getvalue()).decode()}"


def write_sheet(file: Path, strategy: str, rows: Sequence[Shown], root: Path) -> None:
    """Write a picture of pairs, with rank, weight and classes; the frame of pairs of one class has another colour."""
    font = ImageFont.load_default(11)
    width, height = 2 * CELL + 2 * GAP, CELL + CAPTION + GAP
    lines = -(-len(rows) // COLUMNS)
    sheet = Image.new("RGB", (COLUMNS * width + GAP, lines * height + 34), "white")
    draw = ImageDraw.Draw(sheet)
    draw.text((GAP, 8), f"{strategy}: the {len(rows)} pairs with the largest weight", INK, ImageFont.load_default(15))
    draw.text((COLUMNS * width - 260, 10), "orange: one class · blue: two classes", INK, font)
    for i, row in enumerate(rows):
        x, y = GAP + i % COLUMNS * width, 34 + i // COLUMNS * height
        for k, path in enumerate((row.a, row.b)):
            sheet.paste(small(root / path, CELL), (x + k * (CELL + 2), y))
        colour = {"yes": SAME, "no": OTHER}.get(row.same, INK)
        draw.rectangle((x - 2, y - 2, x + 2 * CELL + 3, y + CELL + 1), outline=colour, width=2)
        classes = row.class_a if row.same == "yes" else f"{row.class_a} / {row.class_b}" if row.same else row.a.name
        for line, words in enumerate((f"{row.rank}: {row.pair.weight:.3g}, cosine {row.pair.cosine:.2f}", classes)):
            draw.text((x, y + CELL + 3 + 13 * line), words[:27], INK, font)
    replace_file(file, lambda part: sheet.save(part, "PNG"))
