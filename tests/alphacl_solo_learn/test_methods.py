"""The loss in solo-learn's training steps: against solo-learn's own losses, against loops, and untouched without."""

import copy
import pickle
import sys
from types import SimpleNamespace

import pytest
import torch
from oracles import loop_loss, relative_error
from solo_clone import METHODS, batch, build, load_solo, needs_clone, small_config, step
from torch import nn
from torch.testing import assert_close

from alphacl_plugins import AlphaCLLoss, strategies

pytestmark = needs_clone

OWN_NAMES = {
    "simclr": ("SimCLR", "train_nce_loss"),
    "supcon": ("SupCon", "train_nce_loss"),
    "mocov2plus": ("MoCoV2Plus", "train_nce_loss"),
    "mocov3": ("MoCoV3", "train_contrastive_loss"),
    "nnclr": ("NNCLR", "train_nnclr_loss"),
    "simsiam": ("SimSiam", "train_neg_cos_sim"),
    "byol": ("BYOL", "train_neg_cos_sim"),
}
TAU = 0.2  # solo-learn's temperature in `small_config`


@pytest.fixture(scope="module")
def solo():
    return load_solo()


def with_loss(method, crops=None, **options):
    changes = {} if crops is None else {"data": crops}
    return small_config(method, loss={"name": "alpha_cl", **options}, **changes)


def of_the_loss(grads):
    """Gradients of the contrastive loss: all but those of the classifiers that only watch."""
    return {name: grad for name, grad in grads.items() if "classifier" not in name}


@pytest.mark.parametrize("method", OWN_NAMES)
def test_without_the_key_a_method_is_bit_for_bit_what_it_was(solo, method):
    theirs = build(getattr(solo, OWN_NAMES[method][0]), small_config(method))
    ours = build(solo.METHODS[method], small_config(method))
    assert type(ours) is not type(theirs)
    assert isinstance(ours, type(theirs))
    assert_close(ours.state_dict(), theirs.state_dict(), rtol=0, atol=0)
    for seed in range(2):  # the second with what the first left in a queue
        got, expected = step(ours, batch(seed=seed)), step(theirs, batch(seed=seed))
        assert torch.equal(got.loss, expected.loss)
        assert_close(got.grads, expected.grads, rtol=0, atol=0)
    assert ours.logged.keys() == theirs.logged.keys()
    assert [group["name"] for group in ours.learnable_params] == [group["name"] for group in theirs.learnable_params]


# MoCo v3's own loss has the factor 2 tau already.
@pytest.mark.parametrize(("method", "factor"), [("simclr", TAU), ("mocov2plus", TAU), ("nnclr", TAU), ("mocov3", 0.5)])
def test_infonce_on_two_crops_is_tau_times_solo_learns_own_loss(solo, method, factor):
    theirs = build(getattr(solo, OWN_NAMES[method][0]), small_config(method))
    ours = build(solo.METHODS[method], with_loss(method, strategy="infonce", tau=TAU))
    name = OWN_NAMES[method][1]
    for seed in range(3):
        got, expected = step(ours, batch(seed=seed)), step(theirs, batch(seed=seed))
        assert_close(ours.logged[name], factor * theirs.logged[name], rtol=1e-12, atol=0)
        mine, own = of_the_loss(got.grads), of_the_loss(expected.grads)
        assert mine.keys() == own.keys()
        for parameter, grad in mine.items():
            assert_close(grad, factor * own[parameter], rtol=1e-10, atol=1e-14, msg=parameter)
        assert_close(got.grads["classifier.weight"], expected.grads["classifier.weight"], rtol=0, atol=0)
    assert_close(dict(ours.named_buffers()), dict(theirs.named_buffers()), rtol=0, atol=0)  # queues


@pytest.mark.parametrize("strategy", ["infonce", "direct", "inverse", "dhel"])
@pytest.mark.parametrize(("method", "small"), [("simclr", 0), ("simclr", 3), ("supcon", 0), ("supcon", 2)])
def test_classes_and_any_number_of_crops_agree_with_plain_loops(solo, method, small, strategy):
    crops = {"num_small_crops": small}
    model = build(solo.METHODS[method], with_loss(method, crops, strategy=strategy))
    data = batch(samples=4, sizes=(8, 8) + (5,) * small)
    got = step(model, data)
    views = [model.projector(model.backbone(images)) for images in data[1]]
    alpha = strategies.build_strategy(strategy)
    negatives = getattr(alpha, "negatives", None) or "both"
    labels = data[2] if method == "supcon" else None
    energy, value = loop_loss(alpha, *views, negatives=negatives, symmetric=True, labels=labels)
    assert_close(model.logged["train_nce_loss"], value.mean(), rtol=1e-10, atol=1e-12)
    parameters = [*model.backbone.parameters(), *model.projector.parameters()]
    expected = torch.autograd.grad(energy.mean(), parameters)
    mine = list(of_the_loss(got.grads).values())
    for grad, other in zip(mine, expected, strict=True):
        assert relative_error(grad, other) < 1e-9


@pytest.mark.parametrize("method", ["simclr", "mocov2plus", "nnclr"])
def test_in_the_usual_scale_infonce_is_solo_learns_own_loss(solo, method):
    theirs = build(getattr(solo, OWN_NAMES[method][0]), small_config(method))
    ours = build(solo.METHODS[method], with_loss(method, strategy="infonce", tau=TAU, scale="ntxent"))
    got, expected = step(ours, batch()), step(theirs, batch())
    name = OWN_NAMES[method][1]
    assert_close(ours.logged[name], theirs.logged[name], rtol=1e-12, atol=0)
    assert_close(got.grads, expected.grads, rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize("negatives", ["both", "queue"])
def test_supcon_compares_with_the_classes_in_its_memory_bank(solo, negatives):
    options = {"strategy": "direct", "negatives": negatives}
    model = build(solo.METHODS["supcon"], with_loss("supcon", memory_bank_size=20, **options))
    bank, first, second = model.memory_bank, batch(), batch(seed=1)
    assert bank.labels.eq(-1).all()
    with torch.no_grad():
        keys = nn.functional.normalize(torch.cat([model(images)["z"] for images in first[1]]))
        views = [model(images)["z"] for images in second[1]]
    step(model, first)
    assert_close(bank.embeddings[: len(keys)], keys)
    assert bank.labels[: len(keys)].tolist() == 2 * first[2].tolist()
    queue, classes = bank.embeddings.clone(), bank.labels.clone()
    step(model, second)
    expected = AlphaCLLoss(**options)(*views, labels=second[2], queue=queue, queue_labels=classes)
    assert_close(model.logged["train_nce_loss"], expected, rtol=1e-12, atol=0)
    assert bank.labels[len(keys) :].tolist() == (2 * second[2].tolist())[: 20 - len(keys)]
    assert "memory_bank_size=20" in model.trained_with


def test_the_queue_of_moco_is_what_the_loss_compares_with(solo):
    model = build(solo.METHODS["mocov2plus"], with_loss("mocov2plus", strategy="direct"))
    data, queue = batch(), model.queue.clone()
    with torch.no_grad():
        q = [model(images)["z"] for images in data[1]]
        k = [model.momentum_forward(images)["z"] for images in data[1]]
    step(model, data)
    alpha = strategies.Direct()
    directions = [
        loop_loss(alpha, q[a], k[b], negatives="queue", symmetric=False, queue=queue[b].T)[1].mean()
        for a, b in ((0, 1), (1, 0))
    ]
    assert_close(model.logged["train_nce_loss"], sum(directions) / 2, rtol=1e-10, atol=0)
    assert_close(model.queue[0, :, :6].T, k[0])
    assert int(model.queue_ptr) == 6


def test_what_is_logged(solo):
    model = build(solo.METHODS["simclr"], with_loss("simclr", strategy="infonce", tau=0.3, learnable_tau=True))
    data = batch()
    step(model, data)
    own = {"train_class_loss", "train_acc1", "train_acc5", "train_nce_loss"}
    added = {"train_alignment", "train_negative_distance", "train_alpha_entropy", "train_tau"}
    assert set(model.logged) == own | added
    z, z_aug = (nn.functional.normalize(model(images)["z"], dim=1) for images in data[1])
    assert_close(model.logged["train_alignment"], (z - z_aug).square().sum(dim=1).mean().detach())
    others = [(a - b).square().sum() for i, a in enumerate(z) for j, b in enumerate(z_aug) if i != j]
    others += [(v[i] - v[j]).square().sum() for v in (z, z_aug) for i in range(6) for j in range(6) if i < j]
    assert_close(model.logged["train_negative_distance"], torch.stack(others).mean().detach())
    assert 0 < model.logged["train_alpha_entropy"] < torch.log(torch.tensor(10.0))
    assert_close(float(model.logged["train_tau"]), 0.3)


@pytest.mark.parametrize(("method", "directions"), [("simclr", 1), ("mocov3", 2)])
def test_statistics_are_computed_every_50_steps_and_at_the_first_of_an_epoch(solo, method, directions, monkeypatch):
    """They are a pass of their own. Lightning writes what was logged at its steps 49, 99, ..."""
    model = build(solo.METHODS[method], with_loss(method))
    cls, looks, step = type(model.criterion), [], [0]
    read = cls.last_stats.fget
    monkeypatch.setattr(cls, "last_stats", property(lambda loss: looks.append(step[0]) or read(loss)))
    monkeypatch.setattr(type(model), "global_step", property(lambda _: step[0]))
    for number in range(130):  # two epochs of 65
        step[0] = number
        model.logged.clear()
        model.training_step(batch(), number % 65)
        assert ("train_alignment" in model.logged) == (number in (0, 49, 65, 99))
    assert looks == [number for number in (0, 49, 65, 99) for _ in range(directions)]


def test_a_learnable_temperature_is_trained_without_weight_decay(solo):
    model = build(solo.METHODS["simclr"], with_loss("simclr", strategy="infonce", learnable_tau=True))
    (log_tau,) = model.criterion.parameters()
    before = log_tau.item()
    optimizer = model.configure_optimizers()
    (group,) = [group for group in optimizer.param_groups if group["params"] == [log_tau]]
    assert (group["name"], group["weight_decay"]) == ("alpha_cl", 0)
    model.training_step(batch(), 0).backward()
    optimizer.step()
    assert log_tau.item() != before


def test_the_loss_adds_nothing_to_a_checkpoint_so_that_it_may_be_changed(solo):
    theirs = build(solo.SimCLR, small_config("simclr"))
    ours = build(solo.METHODS["simclr"], with_loss("simclr"))
    assert ours.state_dict().keys() == theirs.state_dict().keys()


def test_solo_learns_loss_is_back_after_the_step_even_if_that_fails(solo):
    import solo.methods.simclr as module

    own = module.simclr_loss_func
    model = build(solo.METHODS["simclr"], with_loss("simclr"))
    step(model, batch())
    with pytest.raises(ValueError, match="z: expected at least 2 samples"):
        model.training_step(batch(samples=1), 0)
    assert module.simclr_loss_func is own


@pytest.mark.parametrize("method", METHODS)
def test_half_precision_embeddings_are_compared_in_float32(solo, method):
    model = build(solo.METHODS[method], with_loss(method, strategy="infonce", tau=0.05)).float()
    seen = []
    model.criterion.register_forward_hook(
        lambda _, args, kwargs, loss: seen.append((args, kwargs, loss)), with_kwargs=True
    )
    images = batch()
    images[1] = [crop.float() for crop in images[1]]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = model.training_step(images, 0)
    loss.backward()
    assert loss.dtype == torch.float32
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)
    assert any(arg.dtype == torch.bfloat16 for args, _, _ in seen for arg in args)
    model.criterion._forward_hooks.clear()
    for args, kwargs, got in seen:
        kwargs = {k: v.float() if v.is_floating_point() else v for k, v in kwargs.items()}
        assert_close(got, model.criterion(*(arg.float() for arg in args), **kwargs), rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("epoch", [0, 9, 10, 11, 14, 17])
def test_method_alpha_cl_has_the_papers_head_and_schedule(solo, epoch):
    cfg = small_config("alpha_cl")
    del cfg["method_kwargs"], cfg["scheduler"]
    cfg.scheduler = {"name": "alpha_cl", "schedule": "paper", "interval": "epoch"}
    model = build(solo.METHODS["alpha_cl"], cfg)
    linear, norm, relu, last = model.projector
    assert (linear.in_features, linear.out_features, last.in_features, last.out_features) == (6, 512, 512, 128)
    assert isinstance(norm, nn.BatchNorm1d)
    assert not norm.affine
    assert isinstance(relu, nn.ReLU)
    assert model.criterion.strategy == strategies.Direct(tau=0.5, p=4.0)
    # Lightning's, before the data are loaded
    model._trainer = SimpleNamespace(num_training_batches=float("inf"), train_dataloader=None)
    (optimizer,), (schedule,) = model.configure_optimizers()
    model._trainer.num_training_batches = 4
    assert schedule["interval"] == "epoch"
    for _ in range(epoch):
        optimizer.step()
        schedule["scheduler"].step()
    # after 10 constant epochs, half a cosine per 4 (the batches of an epoch), and up again
    expected = {0: 1.0, 9: 1.0, 10: 1.0, 11: 0.5 + 0.5**1.5, 14: 0.0, 17: 0.5 + 0.5**1.5}[epoch]
    assert_close(optimizer.param_groups[0]["lr"], 0.1 * expected)


def test_method_alpha_cl_takes_solo_learns_schedulers_too(solo):
    cfg = small_config("alpha_cl", scheduler={"name": "step", "lr_decay_steps": [1]})
    model = build(solo.METHODS["alpha_cl"], cfg)
    _, (schedule,) = model.configure_optimizers()
    assert schedule.milestones == {1: 1}


@pytest.mark.parametrize("method", [*METHODS, "alpha_cl", "byol", "linear"])
def test_classes_pickle(solo, method):
    assert pickle.loads(pickle.dumps(solo.METHODS[method])) is solo.METHODS[method]


@pytest.mark.parametrize("method", ["simclr", "mocov2plus", "alpha_cl"])
def test_models_pickle_and_copy_before_the_first_batch(solo, method):
    changes = {"backbone": {"name": "timm/test_resnet"}} if method == "alpha_cl" else {}
    model = solo.METHODS[method](small_config(method, loss={"name": "alpha_cl", "strategy": "inverse"}, **changes))
    for again in (pickle.loads(pickle.dumps(model)), copy.deepcopy(model)):
        assert type(again) is solo.METHODS[method]
        assert again.criterion.strategy == strategies.Inverse()
        assert_close(again.state_dict(), model.state_dict(), rtol=0, atol=0)


def test_a_new_process_that_reads_a_pickle_registers_by_itself(solo, monkeypatch):
    import alphacl_solo_learn.registered as registered

    originals = {
        name: next(base for base in cls.__mro__ if base.__module__.startswith("solo."))
        for name, cls in solo.METHODS.items()
    }
    ours = pickle.dumps(solo.METHODS["simclr"])
    assert b"alphacl_solo_learn.registered" in ours
    monkeypatch.setattr(solo, "METHODS", {name: cls for name, cls in originals.items() if name != "alpha_cl"})
    assert not hasattr(solo.METHODS["simclr"], "contrast")
    assert pickle.loads(ours) is solo.METHODS["simclr"]
    assert hasattr(solo.METHODS["simclr"], "contrast")
    with pytest.raises(AttributeError, match=r"no_method: expected one of solo.methods.METHODS: base, linear"):
        registered.no_method  # noqa: B018


@pytest.mark.parametrize("name", ["SimCLR", "SupCon", "BYOL"])
def test_solo_learns_own_class_refuses_a_config_with_the_loss(solo, name):
    with pytest.raises(
        (TypeError, ValueError), match=r"^loss: expected alpha_cl with .*(which trains another|got method)"
    ):
        getattr(solo, name)(small_config(name.lower(), loss="alpha_cl"))


def test_a_users_own_method_trains_the_loss_or_stops(solo):
    class Mine(solo.SimCLR):
        """A method of the user's own, derived from solo-learn's."""

    class Ours(solo.METHODS["simclr"]):
        """One derived from the class in the table."""

    with pytest.raises(TypeError, match=r'^loss: expected alpha_cl with solo.methods.METHODS\["simclr"\], got .*Mine'):
        Mine(small_config("simclr", loss="alpha_cl"))
    Mine(small_config("simclr"))
    assert build(Ours, small_config("simclr", loss="alpha_cl")).criterion is not None


UNLABELLED = {
    "data.no_labels": ({"no_labels": True}, "expected false with method supcon, .*, got true"),
    "data.dataset": ({"dataset": "stl10"}, "expected labelled images with method supcon, got stl10"),
    "data.num_classes": ({"num_classes": 1}, "expected >= 2 with method supcon, got 1"),
}


@pytest.mark.parametrize("key", UNLABELLED)
def test_supcon_without_labels_is_an_error_as_its_loss_would_be_0(solo, key):
    data, message = UNLABELLED[key]
    with pytest.raises(ValueError, match=f"^{key}: {message}"):
        build(solo.METHODS["supcon"], small_config("supcon", loss="alpha_cl", data=data))
    build(solo.METHODS["supcon"], small_config("supcon", data=data))  # solo-learn's own
    build(solo.METHODS["simclr"], small_config("simclr", loss="alpha_cl", data=data))


RESUMING = {"resume_from_checkpoint": None}  # no path was named


@pytest.mark.parametrize("before", [None, {"name": "alpha_cl", "strategy": "infonce"}])
def test_what_was_found_in_a_folder_is_not_gone_on_with_if_another_loss_trained_it(solo, before):
    now = {"name": "alpha_cl", "tau": 0.5}
    checkpoint = {}
    build(solo.METHODS["simclr"], small_config("simclr", loss=before)).on_save_checkpoint(checkpoint)
    model = build(solo.METHODS["simclr"], small_config("simclr", loss=now, **RESUMING))
    model.on_load_checkpoint(checkpoint)  # weights that are only read
    model.trainer = SimpleNamespace()
    with pytest.raises(
        ValueError,
        match=r"^checkpoint: expected that of a run with strategy=Direct\(tau=0.5, .*, found that of one with ",
    ):
        model.on_load_checkpoint(checkpoint)
    same = {}
    build(solo.METHODS["simclr"], small_config("simclr", loss="alpha_cl")).on_save_checkpoint(same)
    model.on_load_checkpoint(same)  # what differs in words alone is the same
    del model.cfg.resume_from_checkpoint  # as main_pretrain.py does if the user named the checkpoint
    model.on_load_checkpoint(checkpoint)


def test_a_run_found_in_a_folder_has_the_same_seed(solo):
    def built(seed):
        return build(solo.METHODS["simclr"], small_config("simclr", loss="alpha_cl", seed=seed, **RESUMING))

    checkpoint, again = {}, built(seed=7)
    built(seed=5).on_save_checkpoint(checkpoint)
    again.trainer = SimpleNamespace()
    with pytest.raises(
        ValueError, match=r"^checkpoint: expected that of a run with .*, seed=7, found .*, seed=5; give"
    ):
        again.on_load_checkpoint(checkpoint)
    again.cfg.seed, again.trained_with = 5, built(seed=5).trained_with
    again.on_load_checkpoint(checkpoint)


def checkpointed(solo, folder, tau):
    """A model that is trained, as far as solo-learn's Checkpointer is concerned."""
    from solo.utils.checkpointer import Checkpointer

    cfg = small_config("simclr", loss={"name": "alpha_cl", "tau": tau})
    model, callback = build(solo.METHODS["simclr"], cfg), Checkpointer(cfg, folder)
    logger = SimpleNamespace(version=0)  # Lightning's version_0, for each run that starts before there is one
    model.trainer = SimpleNamespace(callbacks=[object(), callback], is_global_zero=True, logger=logger)
    callback.on_train_start(model.trainer, model)
    return model


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # solo-learn leaves a file open
def test_weights_are_not_written_into_the_folder_that_another_run_has_taken(solo, tmp_path):
    first = checkpointed(solo, tmp_path, tau=0.1)
    first.on_save_checkpoint({})
    second = checkpointed(solo, tmp_path, tau=0.2)
    with pytest.raises(
        ValueError, match=r"^checkpoint.dir: expected a folder of this run alone, got .*0, into which an"
    ):
        first.on_save_checkpoint({})
    second.on_save_checkpoint({})  # whose arguments lie beside its weights
    first.trainer.is_global_zero = False  # it writes nothing
    first.on_save_checkpoint({})


LAUNCHERS = {
    "torchrun": {"TORCHELASTIC_RUN_ID": "1", "WORLD_SIZE": "2"},
    "SLURM": {"SLURM_NTASKS": "2", "SLURM_JOB_NAME": "train"},
}


@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_a_run_is_not_trained_once_by_each_process_that_was_started(solo, launcher, monkeypatch):
    for name, value in LAUNCHERS[launcher].items():
        monkeypatch.setenv(name, value)
    model = build(solo.METHODS["simclr"], small_config("simclr", loss="alpha_cl"))
    model.trainer = SimpleNamespace(world_size=1)  # devices: "1"
    with pytest.raises(ValueError, match=f"^{launcher}: expected 1, as devices x num_nodes says, got 2 processes$"):
        model.setup("fit")
    model.trainer.world_size = 2
    model.setup("fit")
    own = build(solo.METHODS["simclr"], small_config("simclr"))  # solo-learn's, as it was
    own.trainer = SimpleNamespace(world_size=1)
    own.setup("fit")


@pytest.mark.parametrize(("devices", "counted"), [("2", 1), ("auto", 4), ("-1", 2), ([0], 1), ([0, 1], None)])
def test_a_learning_rate_for_another_number_of_processes_is_told(solo, devices, counted, recwarn):
    model = build(solo.METHODS["simclr"], small_config("simclr", loss="alpha_cl", devices=devices, num_nodes=1))
    model.trainer = SimpleNamespace(world_size=3 if devices == "-1" else 2)
    recwarn.clear()
    model.setup("fit")
    told = [str(warning.message) for warning in recwarn]
    assert (told != []) == (counted is not None)
    assert all(f"multiplied the learning rate by {counted}, " in text for text in told)


class WithoutWords:
    """A strategy of the user's own, of which Python writes an address."""

    def __call__(self, d2_pos, d2_neg):
        return torch.softmax(-d2_neg, dim=1)


def test_a_strategy_without_words_of_its_own_is_the_same_in_another_process(solo, monkeypatch):
    monkeypatch.setitem(sys.modules, "users_strategies", SimpleNamespace(WithoutWords=WithoutWords))
    cfg = small_config("simclr", loss={"name": "alpha_cl", "strategy": "users_strategies.WithoutWords"}, **RESUMING)
    first, again = (build(solo.METHODS["simclr"], cfg) for _ in range(2))
    assert " at 0x" in repr(first.criterion.strategy)
    checkpoint = {}
    first.on_save_checkpoint(checkpoint)
    again.trainer = SimpleNamespace()
    again.on_load_checkpoint(checkpoint)
