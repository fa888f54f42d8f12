import pickle
import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import datasets

from paired import images
from quickstart_data import load_folder
from recipe import data
from recipe.protocol import DATASETS

CIFAR10, CIFAR100, STL10 = (DATASETS[name] for name in ("cifar10", "cifar100", "stl10"))


@pytest.fixture
def folder(digits_folder, tmp_path):
    """A copy that a test may break."""
    return shutil.copytree(digits_folder, tmp_path / "mine", ignore=shutil.ignore_patterns(".cache"))


def test_a_folder_gives_every_pixel_in_order(digits_folder):
    read = data.load(CIFAR10, digits_folder)
    files = sorted((digits_folder / "test").glob("*/*.png"))
    assert len(read.train) == 260
    assert len(read.test) == len(files) == 130
    assert read.classes == tuple("0123456789")
    for index in (0, 57, 129):
        expected = np.asarray(Image.open(files[index]).convert("RGB")).transpose(2, 0, 1)
        assert np.array_equal(read.test.pixels[index].numpy(), expected)
        assert read.test.labels[index] == int(files[index].parent.name)
    assert len(read.unlabeled) == 0
    assert torch.equal(read.pretraining(), read.train.pixels)


def test_the_data_set_may_lie_in_a_folder_of_its_name(digits_folder, tmp_path):
    (tmp_path / "cifar10").symlink_to(digits_folder)
    assert len(data.load(CIFAR10, tmp_path, "folder").train) == 260


def test_images_are_decoded_once(folder, monkeypatch):
    first = data.load(CIFAR10, folder)
    monkeypatch.setattr(data, "decode", None)
    assert torch.equal(data.load(CIFAR10, folder).train.pixels, first.train.pixels)


def test_a_changed_file_is_decoded_again(folder):
    before = data.load(CIFAR10, folder)
    Image.new("RGB", (32, 32), "white").save(sorted((folder / "train" / "0").iterdir())[0])
    after = data.load(CIFAR10, folder)
    assert after.train.pixels[0].min() == 255
    assert before.as_dict()["sha256"] != after.as_dict()["sha256"]
    assert len(list((folder / ".cache").iterdir())) == 1  # that of before is gone


def test_images_that_were_decoded_in_another_way_are_decoded_again(folder, monkeypatch):
    monkeypatch.setattr(data, "DECODER", 1)
    monkeypatch.setattr(data, "decode", lambda files, size: torch.zeros(len(files), 3, size, size, dtype=torch.uint8))
    assert data.load(CIFAR10, folder).train.pixels.max() == 0
    monkeypatch.undo()
    assert data.load(CIFAR10, folder).train.pixels.max() > 0


@pytest.mark.parametrize("broken", [b"", b"nothing like an array", b"\x93NUMPY\x01\x00v\x00"])
def test_a_broken_cache_is_made_again(folder, broken):
    first = data.load(CIFAR10, folder)
    (cache,) = (folder / ".cache").iterdir()
    whole = cache.read_bytes()
    cache.write_bytes(broken)
    assert torch.equal(data.load(CIFAR10, folder).train.pixels, first.train.pixels)
    assert cache.read_bytes() == whole


def test_a_folder_that_cannot_be_written_is_no_error(folder, monkeypatch):
    def refuse(path, write):
        raise PermissionError(path)

    monkeypatch.setattr(data, "replace_file", refuse)
    assert len(data.load(CIFAR10, folder).train) == 260


@pytest.mark.parametrize("part", [0, 60])
def test_a_broken_image_is_an_error_that_names_it(folder, part):
    broken = sorted((folder / "test" / "3").iterdir())[4]
    broken.write_bytes(broken.read_bytes()[:part])
    with pytest.raises(ValueError, match=rf"data_root: .* cannot be decoded: .*{broken.name}"):
        data.load(CIFAR10, folder)


def test_missing_folders_are_errors(folder, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"data_root: expected an image folder, .* got none"):
        data.load(CIFAR10, tmp_path / "nowhere", "folder")
    with pytest.raises(FileNotFoundError, match=r"data_root: expected torchvision's files of cifar10.*got neither"):
        data.load(CIFAR10, tmp_path / "nowhere")
    shutil.rmtree(folder / "test" / "4")
    with pytest.raises(ValueError, match=r"expected the classes of train/ in test/, got others: 4"):
        data.load(CIFAR10, folder)
    shutil.rmtree(folder / "test")
    with pytest.raises(FileNotFoundError, match=r"expected a folder test/ beside train/"):
        data.load(CIFAR10, folder)


def test_an_empty_class_is_an_error(folder):
    for file in (folder / "train" / "7").iterdir():
        file.unlink()
    with pytest.raises(FileNotFoundError, match=r"expected images .* got none in .*7"):
        data.load(CIFAR10, folder)


def test_the_number_of_classes_is_checked(digits_folder):
    with pytest.raises(ValueError, match=r"expected 100 classes in train, got 10 .* --classes"):
        data.load(CIFAR100, digits_folder)
    assert len(data.load(CIFAR100, digits_folder, classes=10).classes) == 10


def test_a_limit_keeps_the_classes_in_proportion(digits_folder):
    read = data.load(CIFAR10, digits_folder, limit=50)
    assert torch.equal(torch.bincount(read.train.labels), torch.full((10,), 5))
    assert torch.equal(torch.bincount(read.test.labels), torch.full((10,), 5))
    assert data.load(CIFAR10, digits_folder, limit=50).as_dict() == read.as_dict()
    with pytest.raises(ValueError, match=r"limit: expected at least one image for each of the 10 classes, got 9"):
        data.load(CIFAR10, digits_folder, limit=9)


@pytest.fixture(params=["*", "train/*"])
def flat(request, digits_folder, tmp_path):
    """Images without class folders."""
    folder = tmp_path / "flat"
    target = folder / request.param[:-2]
    target.mkdir(parents=True)
    for file in (digits_folder / "train").glob("*/*"):
        shutil.copyfile(file, target / f"{file.parent.name}-{file.name}")
    (target / ".DS_Store").touch()
    (target / "list.csv").touch()
    return folder


@pytest.mark.parametrize("data_format", ["auto", "folder"])
def test_a_flat_folder_has_no_labels(flat, data_format, digits_folder):
    for _ in range(2):  # beside its own cache too
        read = data.load(CIFAR10, flat, data_format)
        assert (read.labelled, read.own, read.classes, len(read.test)) == (False, True, (), 0)
        assert torch.equal(read.pretraining(), data.load(CIFAR10, digits_folder).train.pixels)
        assert (read.train.labels == -1).all()
    assert read.source == "image folder flat, without labels"
    assert len(data.load(CIFAR10, flat, limit=7).train) == 7


def test_a_flat_folder_takes_unlabeled_images_along(flat, digits_folder):
    shutil.copytree(digits_folder / "test" / "0", flat / "unlabeled")
    if not (flat / "train").is_dir():  # folders beside images: neither the one nor the other
        with pytest.raises(FileNotFoundError, match=r"got neither"):
            data.load(CIFAR10, flat)
        return
    read = data.load(CIFAR10, flat)
    assert (len(read.train), len(read.unlabeled), len(read.pretraining())) == (260, 13, 273)


def test_classes_that_are_asked_for_need_labels(flat):
    with pytest.raises(ValueError, match=r"data_root: expected labels, train/<class>/\* .*, got images without"):
        data.load(CIFAR10, flat, classes=10)


def test_a_study_and_the_quickstart_need_labels(flat):
    message = r"data_root: expected (labels, )?train/<class>/\* and test/<class>/\*"
    for dataset in (None, "cifar10"):
        with pytest.raises((ValueError, FileNotFoundError), match=message):
            images.load(dataset, flat, None, None)
    with pytest.raises(ValueError, match=r"data_root: expected at least 2 class folders in .*, got 0"):
        load_folder(flat)


def test_a_study_does_not_count_system_folders_as_classes(folder):
    for name in ("train/__MACOSX/0", "train/@eaDir", "test/__MACOSX"):
        (folder / name).mkdir(parents=True)
    assert images.load(None, folder, None, None).judging.classes == tuple("0123456789")


def test_unlabeled_images_belong_to_pretraining_alone(folder):
    (folder / "unlabeled").mkdir()
    for number in range(3):
        Image.new("RGB", (96, 96), (number, 0, 0)).save(folder / "unlabeled" / f"{number}.png")
    read = data.load(STL10, folder)
    assert read.size == 96
    assert len(read.train) == 260
    assert read.pretraining().shape == (263, 3, 96, 96)
    assert read.pretraining()[260:, 0, 0, 0].tolist() == [0, 1, 2]
    assert read.unlabeled.labels.tolist() == [-1] * 3
    assert len(data.load(STL10, folder, limit=10).pretraining()) == 13


@pytest.mark.parametrize("dataset", [CIFAR10, CIFAR100], ids=lambda dataset: dataset.name)
def test_torchvisions_cifar(dataset, tmp_path, monkeypatch):
    kind = {"cifar10": datasets.CIFAR10, "cifar100": datasets.CIFAR100}[dataset.name]
    monkeypatch.setattr(kind, "_check_integrity", lambda self: True)
    monkeypatch.setattr(kind, "_load_meta", lambda self: None)
    rng = np.random.default_rng(0)
    folder = tmp_path / kind.base_folder
    folder.mkdir()
    written = {}
    key = "labels" if dataset.classes == 10 else "fine_labels"
    for name, _ in kind.train_list + kind.test_list:
        pixels = rng.integers(0, 256, (dataset.classes, 3, 32, 32), dtype=np.uint8)
        written[name] = pixels
        batch = {"data": pixels.reshape(dataset.classes, -1), key: list(range(dataset.classes))}
        (folder / name).write_bytes(pickle.dumps(batch))
    read = data.load(dataset, tmp_path)
    assert read.source == f"torchvision {dataset.name}"
    assert np.array_equal(read.test.pixels.numpy(), written[kind.test_list[0][0]])
    assert np.array_equal(read.train.pixels.numpy(), np.concatenate([written[name] for name, _ in kind.train_list]))
    assert read.test.labels.tolist() == list(range(dataset.classes))
    assert len(read.classes) == dataset.classes


def test_torchvisions_stl10(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.STL10, "_check_integrity", lambda self: True)
    folder = tmp_path / datasets.STL10.base_folder
    folder.mkdir()
    (folder / "class_names.txt").write_text("\n".join("abcdefghij"))
    pixels = np.random.default_rng(0).integers(0, 256, (10, 3, 96, 96), dtype=np.uint8)
    for name in ("train", "test", "unlabeled"):
        pixels.transpose(0, 1, 3, 2).tofile(folder / f"{name}_X.bin")  # the files hold columns first
    for name in ("train", "test"):
        np.arange(1, 11, dtype=np.uint8).tofile(folder / f"{name}_y.bin")
    read = data.load(STL10, tmp_path)
    assert np.array_equal(read.test.pixels.numpy(), pixels)
    assert read.train.labels.tolist() == list(range(10))
    assert read.pretraining().shape == (20, 3, 96, 96)


def test_the_checksum_is_of_pixels_and_labels(digits_folder):
    read = data.load(CIFAR10, digits_folder, limit=20)
    before = read.as_dict()["sha256"]
    read.train.labels[0] += 1
    assert read.as_dict()["sha256"] != before
