import pytest
import torch

from recipe import protocol
from recipe.data import Data, Images
from recipe.pretraining import Pretraining, Steps
from recipe.settings import Settings


def numbered(n, side=32):
    """Images that tell their own number: in base 256, in the first two channels."""
    number = torch.arange(n)
    pixels = torch.stack([number % 256, number // 256, torch.zeros_like(number)], dim=1).to(torch.uint8)
    return Images(pixels[:, :, None, None].expand(-1, -1, side, side).contiguous(), number % 10)


def module_of(n=300, rank=0, epoch=0, **options):
    images = numbered(n)
    data = Data(images, images, Images(images.pixels[:0], images.labels[:0]), tuple("0123456789"), "numbers")
    options = {"backbone": "test_resnet", "batch_size": 32, "device": "cpu", **options}

    class Placed(Pretraining):  # what a Trainer would say
        current_epoch = epoch
        global_rank = rank

    return Placed(Settings(**options), protocol.DATASETS["cifar10"], data)


def shown(module, steps):
    pixels = module._pixels(steps)
    return (pixels[:, 0, 0, 0].long() + 256 * pixels[:, 1, 0, 0].long()).tolist()


def test_an_epoch_shows_each_image_at_most_once_in_an_order_of_its_own():
    first, again, second = module_of(), module_of(), module_of(epoch=1)
    orders = [shown(module, range(len(module.steps))) for module in (first, again, second)]
    assert len(orders[0]) == len(set(orders[0])) == 9 * 32
    assert orders[0] == orders[1] != orders[2]
    assert orders[0] != sorted(orders[0])
    assert shown(module_of(seed=1), range(9)) != orders[0]


def test_steps_are_the_same_however_many_are_made_at_once():
    module = module_of()
    assert shown(module, range(2, 5)) == [n for s in (2, 3, 4) for n in shown(module, range(s, s + 1))]


def test_processes_share_a_batch_in_order():
    whole = module_of()
    parts = [module_of(rank=rank, devices=4) for rank in range(4)]
    for step in (0, 5):
        steps = range(step, step + 1)
        assert shown(whole, steps) == [n for part in parts for n in shown(part, steps)]


def test_views_do_not_depend_on_where_a_run_began():
    straight, resumed = module_of(augment_ahead=4), module_of(augment_ahead=4)
    views = [straight._views(step) for step in range(9)]
    assert views[0].shape == (2, 32, 3, 32, 32)
    for step in (6, 7, 8):  # begins in the middle of what is made at once
        assert torch.equal(resumed._views(step), views[step])


def test_views_differ_by_view_step_epoch_seed_and_process():
    def corner(views):
        return views[:, :, :, 0, 0].clone()

    base = corner(module_of()._views(0))
    assert not torch.equal(base[0], base[1])
    for other in (module_of(epoch=1), module_of(seed=1)):
        assert not torch.equal(corner(other._views(0)), base)
    left, right = (module_of(rank=rank, devices=2) for rank in (0, 1))
    seeds = {module._seed("views", chunk, module.global_rank) for module in (left, right) for chunk in (0, 1)}
    assert len(seeds) == 4


def test_too_few_images_for_a_batch():
    with pytest.raises(ValueError, match=r"batch_size: expected at most the number of training images, 20, got 32"):
        module_of(n=20)


def test_lightning_may_resume_within_an_epoch():
    steps = Steps(images=13, batch_size=4)
    assert (len(steps), list(steps), list(steps)) == (3, [0, 1, 2], [0, 1, 2])
    steps.load_state_dict(steps.state_dict())
