"""CLIP's loss on ours: with infonce open_clip's ClipLoss, with sigmoid its SigLipLoss, the model's scalars included."""

import copy
import math

import pytest
import torch
from oracles import relative_error
from processes import run_in_processes
from torch import distributed as dist
from torch import nn
from torch.nn.functional import cross_entropy, logsigmoid, normalize

from alphacl_open_clip import ClipLoss
from alphacl_plugins import AlphaCLLoss, strategies
from alphacl_plugins.strategies.learnable_temperature import has_temperature

ENGINES = {
    "auto": {},
    "two blocks": {"block_size": 9},
    "autograd": {"block_size": "autograd"},
    "ring": {"gather_distributed": "ring"},
}


def features(n=8, d=5, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(n, d, generator=generator, dtype=torch.float64).requires_grad_() for _ in range(2)]


def scalars(shape=(), scale=12.0, bias=-3.0):
    return [torch.full(shape, x, dtype=torch.float64, requires_grad=True) for x in (scale, bias)]


def clip(image, text, scale):
    """The published loss, in one process."""
    logits, own = scale * image @ text.T, torch.arange(len(image))
    return (cross_entropy(logits, own) + cross_entropy(logits.T, own)) / 2


def siglip(image, text, scale, bias):
    logits = scale * image @ text.T + bias
    return -logsigmoid(logits * (2 * torch.eye(len(image), dtype=logits.dtype) - 1)).sum() / len(image)


def agree(got, expected, tensors, tolerance=1e-12):
    assert got.item() == pytest.approx(expected.item(), rel=tolerance)
    for g, e in zip(*(torch.autograd.grad(x, tensors, retain_graph=True) for x in (got, expected)), strict=True):
        assert relative_error(g, e) < tolerance


@pytest.mark.parametrize("options", ENGINES.values(), ids=ENGINES)
@pytest.mark.parametrize("shape", [(), (1,)])
def test_infonce_is_clips_loss_and_sigmoid_siglips(options, shape):
    raw, (scale, bias) = features(), scalars(shape)
    image, text = (normalize(x, dim=1) for x in raw)
    agree(ClipLoss("infonce", **options)(image, text, scale), clip(image, text, scale), [*raw, scale])
    ours = ClipLoss("sigmoid", symmetric=False, **options)
    image, text = (normalize(x, dim=1) for x in raw)
    agree(ours(image, text, scale, bias), siglip(image, text, scale, bias), [*raw, scale, bias])


def test_they_are_those_of_open_clip():
    hosts = pytest.importorskip("open_clip.loss")
    raw, (scale, bias) = features(), scalars()
    image, text = (normalize(x, dim=1) for x in raw)
    for output_dict in (False, True):
        ours = ClipLoss()(image_features=image, text_features=text, logit_scale=scale, output_dict=output_dict)
        theirs = hosts.ClipLoss()(image_features=image, text_features=text, logit_scale=scale, output_dict=output_dict)
        if output_dict:
            (name, ours), (expected_name, theirs) = *ours.items(), *theirs.items()
            assert name == expected_name
        agree(ours, theirs, [*raw, scale])
        image, text = (normalize(x, dim=1) for x in raw)
    ours, theirs = ClipLoss("sigmoid", symmetric=False), hosts.SigLipLoss()
    agree(ours(image, text, scale, bias), theirs(image, text, scale, bias), [*raw, scale, bias])


WITH_TAU = [name for name in strategies.strategy_names() if has_temperature(strategies.build_strategy(name))]


@pytest.mark.parametrize("name", WITH_TAU)
def test_every_strategy_with_a_temperature_follows_the_models(name):
    raw, (scale, _) = features(), scalars()
    image, text = (normalize(x, dim=1) for x in raw)
    criterion = ClipLoss(name)
    loss = criterion(image, text, scale)
    core = AlphaCLLoss(name, tau=1 / 12.0, negatives="cross", l2_normalize=False, scale="ntxent")
    expected = core(image, text)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-12)
    *of_features, of_scale = torch.autograd.grad(loss, [*raw, scale], retain_graph=True)
    for g, e in zip(of_features, torch.autograd.grad(expected, raw), strict=True):
        assert relative_error(g, e) < 1e-12
    image, text = (normalize(x.detach(), dim=1) for x in raw)
    weights = core.pair_weights(image, text)
    own = 1 - (image * text).sum(dim=1).repeat(2)
    others = 1 - torch.cat([image @ text.T, text @ image.T])
    energy = (weights.neg * others).sum(dim=1) - weights.pos * own
    assert of_scale.item() == pytest.approx(-energy.mean().item(), rel=1e-10)
    assert criterion.criterion.last_stats["tau"].item() == pytest.approx(1 / 12)


def test_half_precision_is_computed_in_float32():
    """Rounding to bfloat16 changes lengths, and with them D, by about 1e-3."""
    image, text = (normalize(x.detach(), dim=1) for x in features())
    expected = clip(image, text, 100.0)
    got = ClipLoss()(image.bfloat16(), text.bfloat16(), torch.tensor(100.0))
    assert got.item() == pytest.approx(expected.item(), rel=2e-3)
    with torch.autocast("cpu", torch.bfloat16):
        got = ClipLoss()(image.float(), text.float(), torch.tensor(100.0))
    assert got.item() == pytest.approx(expected.item(), rel=1e-6)


def test_one_pair_is_as_in_the_host():
    image, text = (torch.nn.functional.normalize(torch.randn(1, 5, dtype=torch.float64), dim=1) for _ in range(2))
    scale, bias = (torch.tensor(value, dtype=torch.float64, requires_grad=True) for value in (8.0, -3.0))
    assert ClipLoss("infonce")(image, text, scale).item() == 0
    value = ClipLoss("sigmoid", symmetric=False)(image, text, scale, bias)
    expected = torch.nn.functional.softplus(-(scale * (image * text).sum() + bias))
    assert value.item() == pytest.approx(expected.item(), rel=1e-12)
    for found, right in zip(
        torch.autograd.grad(value, (scale, bias)), torch.autograd.grad(expected, (scale, bias)), strict=True
    ):
        assert found.item() == pytest.approx(right.item(), rel=1e-12)


def test_a_bias_that_has_no_effect_has_a_gradient_of_0_which_ddp_waits_for():
    image, text = (torch.nn.functional.normalize(torch.randn(4, 5), dim=1) for _ in range(2))
    scale, bias = torch.tensor(8.0, requires_grad=True), torch.tensor(-3.0, requires_grad=True)
    ClipLoss("infonce")(image, text, scale, bias).backward()
    assert bias.grad.item() == 0
    assert scale.grad.item() != 0


def test_an_error_lets_go_of_the_models_scalars():
    loss, scale = ClipLoss("infonce"), torch.tensor(8.0, requires_grad=True)
    with pytest.raises(ValueError, match="z_aug: expected the shape of z"):
        loss(torch.rand(4, 5), torch.rand(3, 5), scale * 1)
    with pytest.raises(ValueError, match="z_aug: expected the shape of z"):
        loss(torch.rand(1, 5), torch.rand(3, 5), scale * 1)
    copy.deepcopy(loss)


def test_what_the_model_decides_is_no_option():
    for options in ({"tau": 0.1}, {"learnable_tau": True}, {"effective_share": 0.1}):
        with pytest.raises(TypeError, match="expected none, as the model's logit_scale and logit_bias decide"):
            ClipLoss("infonce", **options)
    with pytest.raises(TypeError, match="strategy: expected one with a temperature, or sigmoid, for logit_scale"):
        ClipLoss("uniform")
    image, text = (normalize(x, dim=1) for x in features())
    with pytest.raises(TypeError, match="logit_bias: expected a tensor with sigmoid"):
        ClipLoss("sigmoid")(image, text, torch.tensor(10.0))
    for scale in (10.0, torch.tensor(10), torch.ones(2)):
        with pytest.raises(TypeError, match="logit_scale: expected a floating-point tensor of one number, got"):
            ClipLoss()(image, text, scale)


class Towers(nn.Module):
    """A model that owns its scale, as CLIP does."""

    def __init__(self):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.image, self.text = nn.Linear(6, 5).double(), nn.Linear(4, 5).double()
        self.logit_scale = nn.Parameter(torch.tensor(math.log(1 / 0.07), dtype=torch.float64))

    def forward(self, image, text):
        return normalize(self.image(image), dim=1), normalize(self.text(text), dim=1), self.logit_scale.exp()


def gradients(model, batch, loss):
    value = loss(*model(*batch))
    model.zero_grad()
    value.backward()
    return [value.detach(), *(p.grad for p in model.parameters())]


def in_two_processes(rank, world):
    generator = torch.Generator().manual_seed(1)
    batch = [torch.randn(8, d, generator=generator, dtype=torch.float64) for d in (6, 4)]
    expected = gradients(Towers(), batch, clip)
    mine = [x[4 * rank : 4 * rank + 4] for x in batch]
    for gather in ("auto", True, "ring"):
        model = nn.parallel.DistributedDataParallel(Towers())
        got = gradients(model, mine, ClipLoss(gather_distributed=gather))
        dist.all_reduce(got[0])
        got[0] /= world
        for g, e in zip(got, expected, strict=True):
            assert relative_error(g, e) < 1e-9


def test_two_processes_are_one(tmp_path):
    run_in_processes(2, tmp_path, in_two_processes)
