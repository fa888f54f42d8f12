"""Image folders: which files are read, as torchvision's ImageFolder does, and what their pixels become."""

import os
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.datasets import ImageFolder

from image_folder import decode, images_in, list_images

GREY = np.arange(256, dtype=np.uint8).reshape(16, 16)
DEEP = GREY.astype(np.uint16) * 257
"""The same grey values, with 16 bits."""


def write(path: Path, value: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (4, 4), (value, 0, 0)).save(path)
    return path


def tiff(path: Path, data: bytes, *, bits: int, sample_format: int = 1, photometric: int = 1) -> Path:
    """Write a file that Pillow cannot: 16 x 16 px, one channel, uncompressed."""
    tags = {256: 16, 257: 16, 258: bits, 259: 1, 262: photometric, 273: 8, 277: 1, 278: 16, 279: len(data)}
    tags[339] = sample_format
    entries = b"".join(struct.pack("<HHIHH", tag, 3, 1, value, 0) for tag, value in tags.items())
    path.write_bytes(b"II" + struct.pack("<HI", 42, 8 + len(data)) + data + struct.pack("<H", len(tags)) + entries)
    with path.open("ab") as file:
        file.write(struct.pack("<I", 0))
    return path


def packed_12_bits(values: np.ndarray) -> bytes:
    first, second = values.reshape(-1, 2).T.astype(int)
    return np.stack([first >> 4, (first & 15) << 4 | second >> 8, second & 255], 1).astype(np.uint8).tobytes()


def read_grey(path: Path) -> np.ndarray:
    pixels = decode([path], 16)[0]
    assert (pixels == pixels[0]).all()
    return pixels[0].numpy()


def test_nested_folders_are_read_as_by_torchvision(tmp_path):
    for number, name in enumerate(("cat/1.png", "cat/images/0.jpg", "cat/images/deep/2.PNG", "dog/images/3.png")):
        write(tmp_path / name, number)
    classes, files, labels = list_images(tmp_path)
    theirs = ImageFolder(tmp_path)
    assert list(classes) == theirs.classes
    assert [(str(file), label) for file, label in zip(files, labels, strict=True)] == theirs.samples


def test_hidden_and_system_files_and_folders_are_left_out(tmp_path):
    expected = [write(tmp_path / "cat/a.jpg"), write(tmp_path / "dog/b.jpg")]
    for name in ("cat/._a.jpg", "dog/.DS_Store", "dog/Thumbs.db", "dog/desktop.ini", "__MACOSX/cat/._a.jpg"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"no image")
    for name in ("cat/__MACOSX/a.jpg", "cat/@eaDir/a.jpg/SYNOPHOTO_THUMB_M.jpg", "dog/.ipynb_checkpoints/b.jpg"):
        write(tmp_path / name)
    classes, files, _ = list_images(tmp_path)
    assert (classes, files) == (("cat", "dog"), expected)


def test_a_folder_below_a_hidden_one_is_read(tmp_path):
    file = write(tmp_path / ".data/cat/a.jpg")
    assert images_in(tmp_path / ".data/cat") == [file]


@pytest.mark.parametrize("name", ["empty/.gitkeep", "empty/._a.jpg", "empty/images/notes.txt"])
def test_a_class_without_images_is_named(tmp_path, name):
    write(tmp_path / "cat/a.jpg")
    (tmp_path / name).parent.mkdir(parents=True)
    (tmp_path / name).touch()
    with pytest.raises(FileNotFoundError, match=r"data_root: expected images .* got none in .*empty"):
        list_images(tmp_path)


@pytest.mark.parametrize("name", ["b.heic", "images/b.GIF"])
def test_images_of_a_kind_that_is_not_read_are_not_left_out(tmp_path, name):
    for file in ("cat/a.jpg", "dog/a.jpg", "dog/images/c.jpg"):
        write(tmp_path / file).with_suffix(".txt").touch()
    other = tmp_path / "dog" / name
    other.touch()
    with pytest.raises(ValueError, match=rf"data_root: expected images of kinds .*\.webp\), got .*dog/{name}"):
        list_images(tmp_path)
    other.unlink()
    assert len(list_images(tmp_path)[1]) == 3


def test_images_beside_the_class_folders_are_not_left_out(tmp_path):
    for name in ("cat/a.jpg", "dog/b.jpg", "._c.jpg"):
        write(tmp_path / name)
    (tmp_path / "list.csv").touch()
    assert len(list_images(tmp_path)[1]) == 2
    write(tmp_path / "c.jpg")
    with pytest.raises(ValueError, match=r"data_root: expected images in the class folders alone, got .*c\.jpg"):
        list_images(tmp_path)


def test_links_are_followed_but_not_in_a_circle(tmp_path):
    write(tmp_path / "elsewhere/a.jpg")
    (tmp_path / "cat").mkdir()
    (tmp_path / "cat/linked").symlink_to(tmp_path / "elsewhere")
    assert images_in(tmp_path / "cat") == [tmp_path / "cat/linked/a.jpg"]
    (tmp_path / "elsewhere/circle").symlink_to(tmp_path / "cat")
    with pytest.raises(ValueError, match=r"data_root: expected every folder once, got a link .*circle"):
        images_in(tmp_path / "cat")


def test_a_folder_that_cannot_be_read_is_an_error(tmp_path, monkeypatch):
    write(tmp_path / "cat/a.jpg")
    write(tmp_path / "cat/private/b.jpg")
    scandir = os.scandir

    def refuse(path: str) -> object:
        if path.endswith("private"):
            raise PermissionError(13, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(PermissionError, match="private"):
        images_in(tmp_path / "cat")


@pytest.mark.parametrize("name", ["deep.png", "deep.tif", "deep.pgm"])
def test_16_bits_are_scaled_by_their_range(tmp_path, name):
    Image.fromarray(DEEP).save(tmp_path / name)
    assert np.array_equal(read_grey(tmp_path / name), GREY)


def test_values_between_those_of_8_bits_are_rounded(tmp_path):
    values = np.array([0, 128, 129, 65535 - 128, 65535 - 129, 65535], dtype=np.uint16).repeat(6).reshape(6, 6)
    Image.fromarray(values).save(tmp_path / "deep.png")
    assert decode([tmp_path / "deep.png"], 6)[0, 0, :, 0].tolist() == [0, 0, 1, 255, 254, 255]


def test_other_forms_of_deep_tiff(tmp_path):
    big_endian = Image.frombytes("I;16B", (16, 16), DEEP.astype(">u2").tobytes())
    big_endian.save(tmp_path / "big_endian.tif")
    assert np.array_equal(read_grey(tmp_path / "big_endian.tif"), GREY)
    inverted = tiff(tmp_path / "white_is_zero.tif", DEEP.tobytes(), bits=16, photometric=0)
    assert np.array_equal(read_grey(inverted), 255 - GREY)
    values = np.round(GREY / 255 * 4095).astype(np.uint16)
    assert np.array_equal(read_grey(tiff(tmp_path / "12.tif", packed_12_bits(values), bits=12)), GREY)


def test_fewer_bits_stored_in_16_are_an_error_that_names_the_brightest_file(tmp_path):
    Image.fromarray(DEEP // 32).save(tmp_path / "dark.png")
    Image.fromarray(DEEP // 16).save(tmp_path / "twelve.png")
    Image.fromarray(DEEP).save(tmp_path / "whole.png")
    Image.fromarray(GREY).save(tmp_path / "eight.png")
    dark, twelve, whole, eight = (tmp_path / f"{name}.png" for name in ("dark", "twelve", "whole", "eight"))
    with pytest.raises(ValueError, match=r"16-bit images that use their range, got at most 6.25% of it, in .*twelve"):
        decode([dark, twelve, eight], 16)
    assert decode([dark, whole], 16)[0].max() == round(255 / 32)


@pytest.mark.parametrize(
    ("kind", "data", "bits", "sample_format"),
    [
        ("floats", DEEP.astype(np.float32), 32, 3),
        ("32-bit or signed", DEEP.astype(np.uint32), 32, 1),
        ("32-bit or signed", DEEP.astype(np.int32), 32, 2),
        ("32-bit or signed", DEEP.astype(np.int16), 16, 2),
        ("32-bit or signed", GREY.astype(np.int8), 8, 2),
    ],
)
def test_pixels_without_a_known_range_are_an_error_that_names_the_file(tmp_path, kind, data, bits, sample_format):
    file = tiff(tmp_path / "unknown.tif", data.tobytes(), bits=bits, sample_format=sample_format)
    with pytest.raises(ValueError, match=rf"data_root: .*unknown.tif \(expected .* 8 or 16 bits, got {kind}"):
        decode([file], 16)


def test_colours_with_16_bits_keep_their_upper_8(tmp_path):
    # 2 x 2 px of PNG with 16 bits in each of three channels, which Pillow reads and cannot write
    colours = np.array([[[0, 257 * 10, 65535], [257, 0, 514]], [[65535, 0, 0], [0, 65535, 0]]], dtype=">u2")
    rows = b"".join(b"\0" + row.tobytes() for row in colours)
    chunks = [(b"IHDR", struct.pack(">IIBBBBB", 2, 2, 16, 2, 0, 0, 0)), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    content = b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    )
    (tmp_path / "rgb48.png").write_bytes(b"\x89PNG\r\n\x1a\n" + content)
    expected = torch.from_numpy((colours.astype(int) // 257).transpose(2, 0, 1))
    assert torch.equal(decode([tmp_path / "rgb48.png"], 2)[0].long(), expected)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK"])
@pytest.mark.parametrize("ending", ["png", "tif"])
def test_every_mode_of_8_bits_keeps_its_colours(tmp_path, mode, ending):
    colours = Image.new("RGB", (8, 8), "white")
    colours.paste((255, 0, 0) if mode not in ("1", "L", "LA") else (0, 0, 0), (0, 0, 4, 8))
    image = colours.convert(mode)
    if mode in ("LA", "RGBA"):
        image.putalpha(128)
    if mode == "CMYK" and ending == "png":
        ending = "jpg"  # PNG has none
    file = tmp_path / f"image.{ending}"
    image.save(file)
    expected = torch.from_numpy(np.array(colours).transpose(2, 0, 1)).int()
    assert (decode([file], 8)[0].int() - expected).abs().max() <= (2 if ending == "jpg" else 0)


def test_a_palette_with_transparency_keeps_its_colours_without_a_warning(tmp_path):
    image = Image.new("P", (4, 4), 1)
    image.putpalette([0, 0, 0, 10, 20, 30])
    image.save(tmp_path / "palette.png", transparency=bytes([255, 100]))
    assert decode([tmp_path / "palette.png"], 4)[0, :, 0, 0].tolist() == [10, 20, 30]


def test_an_image_of_another_size_is_scaled_and_cropped(tmp_path):
    Image.fromarray(np.repeat(DEEP, 2, axis=1)).save(tmp_path / "wide.png")
    Image.fromarray(np.repeat(GREY, 2, axis=1)).save(tmp_path / "eight.png")
    wide, eight = decode([tmp_path / "wide.png", tmp_path / "eight.png"], 8)
    assert torch.equal(wide, eight)
