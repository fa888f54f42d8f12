"""The views made on the device are those of torchvision's pipeline: step by step, draw by draw, and as a whole.

What the paper's protocol is stands here a second time, written with torchvision alone.
"""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
import pytest
import torch
from scipy.stats import binomtest, chisquare, ks_2samp
from sklearn.datasets import load_sample_images
from torch import Tensor
from torch.testing import assert_close
from torchvision import transforms
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as tv

from recipe import protocol
from recipe.augmentation import augmentation
from recipe.data import Data, Images
from recipe.pretraining import Pretraining
from recipe.settings import Settings

DRAWS = 20_000
LEVEL = 1e-3
"""A test of two samples fails below this p; those of the mutations in mind are below 1e-10."""


class Case(NamedTuple):
    """A data set of the protocol, by torchvision."""

    ours: protocol.Augmentation
    size: int
    strength: float
    hue: float
    blur: bool

    def augment(self) -> torch.nn.Sequential:
        return augmentation(self.ours, self.size)

    def step(self, name: str) -> torch.nn.Module:
        return next(step for step in self.augment() if type(step).__name__ == name)

    def theirs(self) -> v2.Transform:
        strengths = (self.strength, self.strength, self.strength, self.hue)
        steps = [
            v2.RandomResizedCrop(self.size, scale=(0.08, 1.0), antialias=True),
            v2.RandomHorizontalFlip(0.5),
            v2.RandomApply([v2.ColorJitter(*strengths)], p=0.8),
            v2.RandomGrayscale(0.2),
            *([v2.RandomApply([v2.GaussianBlur(9, (0.1, 2.0))], p=0.5)] if self.blur else []),
            v2.PILToTensor(),
            v2.ToDtype(torch.float32, scale=True),
        ]
        return v2.Compose(steps)


CASES = {
    "cifar": Case(protocol.CIFAR, 32, 0.4, 0.1, blur=False),
    "stl": Case(protocol.STL, 96, 0.8, 0.2, blur=True),
}


@pytest.fixture(params=CASES, autouse=True)
def case(request) -> Iterator[Case]:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield CASES[request.param]


def photos(size: int, n: int = 256) -> Tensor:
    """Squares of two photographs, uint8."""
    rng = np.random.default_rng(0)
    squares = []
    for photo in load_sample_images().images:
        for _ in range(n // 2):
            top, left = (rng.integers(side - size + 1) for side in photo.shape[:2])
            squares.append(photo[top : top + size, left : left + size].transpose(2, 0, 1))
    return torch.from_numpy(np.stack(squares)).contiguous()


def drawn(step: torch.nn.Module, size: int) -> dict[str, Tensor]:
    return step.forward_parameters((DRAWS, 3, size, size))


def chosen(params: dict[str, Tensor]) -> Tensor:
    return params["batch_prob"] > 0.5


def drawn_for(params: dict[str, Tensor], name: str, index: int) -> float:
    """Return what was drawn for an image; older versions of kornia draw for the chosen images alone."""
    values, applied = params[name], chosen(params)
    return values[index if len(values) == len(applied) else int(applied[:index].sum())].item()


def jitter(image: Tensor, params: dict[str, Tensor], index: int) -> Tensor:
    names = ("brightness", "contrast", "saturation", "hue")
    for which in params["order"].tolist():
        adjust = getattr(tv, f"adjust_{names[which]}")
        image = adjust(image, drawn_for(params, f"{names[which]}_factor", index))
    return image


BY_TORCHVISION: dict[str, Callable[[Tensor, dict[str, Tensor], int], Tensor]] = {
    "RandomHorizontalFlip": lambda image, params, index: tv.horizontal_flip(image),
    "ColorJitter": jitter,
    "RandomGrayscale": lambda image, params, index: tv.rgb_to_grayscale(image, num_output_channels=3),
    "RandomGaussianBlur": lambda image, params, index: tv.gaussian_blur(image, 9, drawn_for(params, "sigma", index)),
}
TOLERANCE = {"ColorJitter": 1e-3, "RandomGrayscale": 2e-4}
"""torchvision's luma has 0.2989 for red, kornia's 0.299; each change of colour may carry that on. Else: rounding."""


def test_the_steps_are_the_protocols_in_its_order(case):
    assert [type(step).__name__ for step in case.augment()] == ["RandomResizedCrop", *BY_TORCHVISION][
        : 5 if case.blur else 4
    ]


def test_crops_are_resized_as_torchvision_resizes_them(case):
    images, step = photos(case.size, 64).float() / 255, case.step("RandomResizedCrop")
    crops = step.draw(64, case.size, images.device)
    crops[0] = torch.tensor([0, 0, case.size, case.size])
    crops[1] = torch.tensor([case.size - 1, case.size - 1, 1, 1])
    expected = [
        tv.resized_crop(image, *(int(number) for number in box), [case.size, case.size], antialias=True)
        for image, box in zip(images, crops, strict=True)
    ]
    assert_close(step.resize(images, crops), torch.stack(expected), rtol=0, atol=2e-5)
    assert_close(step.resize(images[:1], crops[:1]), images[:1], rtol=0, atol=2e-5)


def test_each_step_does_to_each_image_what_torchvision_does_with_the_same_draw(case):
    images = photos(case.size, 64).float() / 255
    seen_orders = set()
    for _ in range(3):
        for step in case.augment()[1:]:
            name = type(step).__name__
            output, params = step(images), step._params
            applied = chosen(params)
            expected = [
                BY_TORCHVISION[name](image, params, index) if applied[index] else image
                for index, image in enumerate(images)
            ]
            tolerance = TOLERANCE.get(name, 2e-5)
            assert_close(output, torch.stack(expected), rtol=0, atol=tolerance, msg=lambda text, name=name: name + text)
            if name == "ColorJitter":
                seen_orders.add(tuple(params["order"].tolist()))
    assert len(seen_orders) > 1


def same_distribution(ours: Tensor | np.ndarray, theirs: np.ndarray, what: str) -> None:
    test = ks_2samp(np.asarray(ours, np.float64), theirs)
    assert test.pvalue > LEVEL, f"{what}: {test}"


def test_crops_are_drawn_as_torchvision_draws_them(case):
    ours = case.step("RandomResizedCrop").draw(DRAWS, case.size, torch.device("cpu")).double().numpy().T
    image = torch.empty(3, case.size, case.size)
    draw = transforms.RandomResizedCrop.get_params
    theirs = np.array([draw(image, (0.08, 1.0), (3 / 4, 4 / 3)) for _ in range(DRAWS)], dtype=float).T
    for index, name in enumerate(("top", "left", "height", "width")):
        same_distribution(ours[index], theirs[index], name)
    same_distribution(ours[2] * ours[3], theirs[2] * theirs[3], "area")
    same_distribution(ours[3] / ours[2], theirs[3] / theirs[2], "aspect")
    for found in (ours, theirs):
        whole = (found[2:] == case.size).all(axis=0).sum()
        assert 0 < whole < DRAWS / 10


def test_colours_are_changed_as_often_and_as_far_as_in_torchvision(case):
    params = drawn(case.step("ColorJitter"), case.size)
    reach = (1 - case.strength, 1 + case.strength)
    theirs = np.array(
        [transforms.ColorJitter.get_params(*3 * [reach], (-case.hue, case.hue))[1:] for _ in range(DRAWS)]
    ).T
    for name, factors in zip(("brightness", "contrast", "saturation", "hue"), theirs, strict=True):
        same_distribution(params[f"{name}_factor"], factors, name)


def test_every_order_of_the_four_changes_of_colour_is_as_likely(case):
    step = case.step("ColorJitter")
    orders = [tuple(step.forward_parameters((1, 3, 4, 4))["order"].tolist()) for _ in range(2_400)]
    counts = {order: orders.count(order) for order in set(orders)}
    assert len(counts) == 24
    assert chisquare(list(counts.values())).pvalue > LEVEL


@pytest.mark.parametrize(
    ("name", "probability"), [("RandomHorizontalFlip", 0.5), ("ColorJitter", 0.8), ("RandomGrayscale", 0.2)]
)
def test_a_step_is_taken_as_often_as_the_protocol_says(case, name, probability):
    taken = int(chosen(drawn(case.step(name), case.size)).sum())
    assert binomtest(taken, DRAWS, probability).pvalue > LEVEL, f"{name}: {taken} of {DRAWS}"


def test_blur_is_as_frequent_and_as_wide_as_in_torchvision(case):
    if not case.blur:
        assert case.ours.blur == 0
        return
    params = drawn(case.step("RandomGaussianBlur"), case.size)
    taken = int(chosen(params).sum())
    assert binomtest(taken, DRAWS, 0.5).pvalue > LEVEL
    theirs = np.array([transforms.GaussianBlur.get_params(0.1, 2.0) for _ in range(DRAWS)])
    same_distribution(params["sigma"], theirs, "sigma")


def test_every_image_of_a_batch_has_its_own_draw(case):
    image = photos(case.size)[:1].float() / 255
    augment = case.augment()
    views = augment(image.expand(64, -1, -1, -1))
    assert len(torch.unique(views.flatten(1), dim=0)) == 64
    for step in augment[1:]:
        for name, values in step._params.items():
            if name.endswith("_factor") or name == "sigma":
                assert len(torch.unique(values)) == len(values) > 1, name
        if step.p < 1:
            assert 0 < chosen(step._params).sum() < 64, type(step).__name__


def test_two_views_of_a_batch_differ_in_every_image_and_repeat_with_the_seed(case):
    pixels = photos(case.size, 32)
    images = Images(pixels, torch.arange(32) % 2)
    data = Data(images, images, Images(pixels[:0], torch.empty(0).long()), ("a", "b"), "photographs")
    dataset = protocol.DATASETS["stl10" if case.blur else "cifar10"]
    module = Pretraining(Settings(batch_size=16, augment_ahead=2), dataset, data)
    first, second = module._make_views(range(2), 0)
    assert first.shape == second.shape == (32, 3, case.size, case.size)
    assert ((first - second).abs().flatten(1).amax(dim=1) > 1e-3).all()
    assert_close(module._make_views(range(2), 0), torch.stack([first, second]), rtol=0, atol=0)
    assert not torch.equal(module._make_views(range(2), 1)[0], first)
    module.augment = torch.nn.Identity()
    unchanged = tv.to_dtype(module._pixels(range(2)), torch.float32, scale=True)
    assert_close(module._make_views(range(2), 0), torch.stack(2 * [unchanged]))


def statistics(views: Tensor) -> dict[str, Tensor]:
    """Return numbers of each view: how bright, how contrasted, how colourful, how sharp."""
    grey = views.mean(dim=1)
    return {
        **{
            f"mean of {name}": views[:, channel].mean(dim=(1, 2))
            for channel, name in enumerate(("red", "green", "blue"))
        },
        "contrast": grey.std(dim=(1, 2)),
        "colour": (views.amax(dim=1) - views.amin(dim=1)).mean(dim=(1, 2)),
        "sharpness": grey.diff(dim=2).abs().mean(dim=(1, 2)),
        "share of black and white": ((views < 1 / 255) | (views > 254 / 255)).float().mean(dim=(1, 2, 3)),
    }


def test_whole_views_look_like_torchvisions(case):
    images, repeats = photos(case.size), 4 if case.blur else 8
    theirs_of = case.theirs()
    squares = [tv.to_pil_image(image) for image in images]
    augment = case.augment()
    ours = torch.cat([augment(images.float() / 255) for _ in range(repeats)])
    theirs = torch.stack([theirs_of(square) for _ in range(repeats) for square in squares])
    assert ours.min() >= 0
    assert ours.max() <= 1 + 1e-6
    expected = statistics(theirs)
    for name, values in statistics(ours).items():
        same_distribution(values, expected[name].double().numpy(), name)
    for channel in range(3):
        mine, other = (views[:, channel].flatten(1).double() for views in (ours, theirs))
        for name, moment in (("mean", mine.mean(1)), ("square", mine.square().mean(1))):
            reference = other.mean(1) if name == "mean" else other.square().mean(1)
            error = (moment.var() / len(moment) + reference.var() / len(reference)).sqrt()
            assert abs(moment.mean() - reference.mean()) < 4 * error, f"{name} of channel {channel}"
