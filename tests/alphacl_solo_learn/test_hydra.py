"""Hydra finds the plugin and our configs in solo-learn, and shows no trace of it in another program."""

import importlib
import inspect
import os
import subprocess
import sys
from importlib.resources import files
from types import SimpleNamespace

import pytest
from solo_clone import SOLO_LEARN_HOME, build, load_solo, needs_clone

from alphacl_plugins import strategies
from alphacl_plugins.strategies import registry
from alphacl_solo_learn.config import BANK, LOSS_OPTIONS, given_options

hydra = pytest.importorskip("hydra", reason="needs hydra-core")
CONFIGS = sorted(
    entry.name.removesuffix(".yaml") for entry in files("alphacl_solo_learn.conf").iterdir() if ".yaml" in entry.name
)
PRETRAINING = [name for name in CONFIGS if not name.endswith("linear")]
LINEAR = [name for name in CONFIGS if name.endswith("linear")]

USERS = """
defaults: {defaults}
method: simclr
{loss}
backbone: {{name: tiny}}
method_kwargs: {{proj_output_dim: 4, proj_hidden_dim: 8, temperature: 0.2}}
data: {{dataset: custom, num_large_crops: 2, num_small_crops: 0, num_classes: 3}}
optimizer: {{name: sgd, batch_size: 6, lr: 0.1, classifier_lr: 0.1, weight_decay: 0}}
scheduler: {{name: none, interval: epoch}}
max_epochs: 1
"""
THREE = strategies.Inverse(gamma=3)
FORMS = {
    "a plain key": ("[_self_]", "loss: alpha_cl", [], strategies.Direct()),
    "a group": ("[_self_, loss: alpha_cl]", "", [], strategies.Direct()),
    "a group over a mapping": ("[_self_, loss: alpha_cl]", "loss: {strategy: inverse, gamma: 3}", [], THREE),
    "a group under a mapping": ("[loss: alpha_cl, _self_]", "loss: {strategy: inverse, gamma: 3}", [], THREE),
    "a group over a key": ("[_self_, loss: alpha_cl]", "loss: alpha_cl", [], strategies.Direct()),
    "a group over a mapping, overridden": (
        "[_self_, loss: alpha_cl]",
        "loss: {strategy: inverse, gamma: 2}",
        ["loss.gamma=3"],
        THREE,
    ),
    "a group, overridden": (
        "[loss: alpha_cl, _self_]",
        "",
        ["loss.strategy=inverse", "loss.gamma=3"],
        strategies.Inverse(gamma=3),
    ),
    "a group, from the command line": ("[_self_]", "", ["+loss=alpha_cl", "loss.p=6"], strategies.Direct(p=6)),
    "a mapping": ("[_self_]", "loss: {name: alpha_cl, strategy: inverse}", [], strategies.Inverse()),
    "a mapping, extended": (
        "[_self_]",
        "loss: {name: alpha_cl, strategy: inverse}",
        ["+loss.gamma=3"],
        strategies.Inverse(gamma=3),
    ),
}


@pytest.fixture
def compose(tmp_path):
    """Compose a config as a solo-learn script would: the plugin adds our folder, none of ours is named."""
    load_solo()

    def composed(name, overrides=(), text=None):
        if text is not None:
            (tmp_path / f"{name}.yaml").write_text(text)
        with hydra.initialize_config_dir(str(tmp_path), version_base="1.2"):
            cfg = hydra.compose(name, list(overrides))
        from omegaconf import OmegaConf

        OmegaConf.set_struct(cfg, False)
        return cfg

    return composed


@needs_clone
@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_the_key_selects_the_loss(compose, form):
    defaults, loss, overrides, strategy = FORMS[form]
    cfg = compose("users", overrides, USERS.format(defaults=defaults, loss=loss))
    assert build(load_solo().METHODS["simclr"], cfg).criterion.strategy == strategy


@needs_clone
def test_the_group_holds_every_option_and_its_default(compose):
    loss = compose("users", [], USERS.format(defaults="[_self_, loss: alpha_cl]", loss="")).loss
    known = {option for strategy in registry._REGISTRY.values() for option in registry._options(strategy)}
    assert set(loss) == {
        "name",
        "strategy",
        "learnable_tau",
        "learn",
        "effective_share",
        "masked",
        BANK,
        *LOSS_OPTIONS,
        *known,
    }
    assert given_options(loss) == {}


@needs_clone
def test_the_group_without_solo_learn_imported_is_hydras_error(compose, monkeypatch):
    monkeypatch.delitem(sys.modules, "solo.methods")
    with pytest.raises(hydra.errors.MissingConfigException, match="Could not find 'loss/alpha_cl'"):
        compose("users", [], USERS.format(defaults="[_self_, loss: alpha_cl]", loss=""))


@needs_clone
def test_what_nobody_set_is_not_recorded(compose):
    cfg = compose("users", ["loss.p=6"], USERS.format(defaults="[_self_, loss: alpha_cl]", loss=""))
    build(load_solo().METHODS["simclr"], cfg)
    assert cfg.loss == {"name": "alpha_cl", "p": 6}


def test_there_is_a_config_for_each_dataset_and_backbone():
    wanted = {f"alphacl_{d}_{b}" for d in ("cifar10", "cifar100", "stl10") for b in ("resnet18", "resnet50")}
    assert set(CONFIGS) == wanted | {f"{name}_linear" for name in wanted}


@needs_clone
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("name", PRETRAINING)
def test_a_pretraining_config_is_the_papers_protocol(compose, name):
    from solo.args.pretrain import parse_cfg

    cfg = parse_cfg(compose(name, ["data_root=/images", "loss.tau=0.3"]))
    _, dataset, resnet = name.split("_")
    assert (cfg.method, cfg.data.dataset, cfg.backbone.name) == ("alpha_cl", dataset, f"timm/{resnet}")
    assert (cfg.data.train_path, cfg.data.val_path) == ("/images", "/images")
    assert cfg.optimizer.lr == pytest.approx({"resnet18": 0.01, "resnet50": 0.001}[resnet])
    assert (cfg.optimizer.name, cfg.optimizer.batch_size, cfg.optimizer.weight_decay) == ("adam", 128, 0)
    assert not cfg.wandb.enabled
    size = 96 if dataset == "stl10" else 32
    (crops,) = cfg.augmentations
    assert (crops.crop_size, cfg.data.num_large_crops, cfg.data.num_small_crops) == (size, 2, 0)
    assert list(crops.color_jitter.values()) == [0.8, *((0.8, 0.8, 0.8, 0.2) if size == 96 else (0.4, 0.4, 0.4, 0.1))]
    assert (crops.grayscale.prob, crops.horizontal_flip.prob) == (0.2, 0.5)
    assert crops.gaussian_blur.prob == (0.5 if size == 96 else 0)
    model = build(load_solo().METHODS["alpha_cl"], cfg)
    assert model.criterion.strategy == strategies.Direct(tau=0.3, p=4)
    assert model.features_dim == {"resnet18": 512, "resnet50": 2048}[resnet]
    assert bytes(model.backbone.built_for.tolist()).decode() == f"image_size={size}, stem=auto"
    assert model.scheduler == "alpha_cl"


@needs_clone
@pytest.mark.parametrize("name", LINEAR)
def test_a_linear_config_matches_its_pretraining_config(compose, name):
    from solo.args.linear import parse_cfg

    cfg = parse_cfg(compose(name, ["pretrained_feature_extractor=my.ckpt"]))
    pretraining = compose(name.removesuffix("_linear"))
    assert cfg.backbone.name == pretraining.backbone.name
    assert cfg.backbone.kwargs == {"image_size": pretraining.augmentations[0].crop_size}
    assert (cfg.data.dataset, cfg.pretrain_method) == (pretraining.data.dataset, pretraining.method)
    assert cfg.data.train_path == "./datasets"
    assert (cfg.optimizer.name, cfg.optimizer.batch_size, cfg.optimizer.weight_decay) == ("adam", 128, 1e-3)
    assert cfg.optimizer.lr == pytest.approx(3e-4)
    assert cfg.max_epochs == 50
    assert not cfg.wandb.enabled


@needs_clone
@pytest.mark.parametrize("name", [PRETRAINING[0], LINEAR[0]])
def test_no_two_runs_of_a_config_share_a_folder(compose, name):
    def folder(*overrides):
        return compose(name, overrides).checkpoint.dir

    assert folder() != folder()  # at another time
    assert folder("+seed=7").rpartition("/")[2].startswith("seed=7,")
    assert folder("run_folder=mine") == "mine"
    if name in PRETRAINING:
        label = folder("loss.strategy=inverse", "loss.gamma=3").rpartition("/")[2]
        assert label.startswith("strategy=inverse,gamma=3,seed=5,")


@pytest.fixture
def host(tmp_path, monkeypatch):
    """A package that stands in for solo-learn; importing it says what was registered, and when."""
    import hydra_plugins.alphacl as plugin

    (tmp_path / "standin").mkdir()
    (tmp_path / "standin" / "__init__.py").touch()
    (tmp_path / "standin" / "methods.py").write_text(
        "import standin\nif standin.broken: raise ImportError('einops')\nREADY = True"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    monkeypatch.setattr(plugin, "HOST", "standin.methods")
    registered = []
    monkeypatch.setattr(plugin, "_register", lambda: registered.append(sys.modules["standin.methods"].READY))
    monkeypatch.setattr(sys, "meta_path", [plugin.RegisterOnImport(), *sys.meta_path])
    import standin

    standin.broken = False
    yield SimpleNamespace(package=standin, registered=registered)
    for name in ("standin", "standin.methods"):
        sys.modules.pop(name, None)


def test_the_adapter_is_registered_after_the_methods_are_imported(host):
    assert host.registered == []
    module = importlib.import_module("standin.methods")
    assert host.registered == [True]
    assert inspect.getsource(module).endswith("READY = True\n")
    importlib.reload(module)
    assert host.registered == [True, True]


def test_an_import_that_fails_and_is_repeated_is_registered(host):
    host.package.broken = True
    with pytest.raises(ImportError, match="einops"):
        importlib.import_module("standin.methods")
    assert host.registered == []
    host.package.broken = False
    importlib.import_module("standin.methods")
    assert host.registered == [True]


def test_an_adapter_that_does_not_fit_stops_the_program_where_hydra_would_only_warn(monkeypatch):
    import alphacl_solo_learn
    import hydra_plugins.alphacl as plugin

    def register():
        raise ImportError("solo-learn: expected another version")

    monkeypatch.setattr(alphacl_solo_learn, "register", register)
    with pytest.raises(RuntimeError, match=r"^solo-learn: expected another version$"):
        plugin._register()


PLAIN = """
import sys
import hydra
from hydra.core.plugins import Plugins

@hydra.main(version_base="1.2", config_path=None)
def main(cfg):
    print("config:", dict(cfg))
    print("imported:", sorted({name.partition(".")[0] for name in sys.modules} & {"torch", "solo", "omegaconf"}))
    print("hooks:", sum(type(finder).__module__ == "hydra_plugins.alphacl" for finder in sys.meta_path))
    print("ours:", sorted(name for name in sys.modules if "alphacl" in name))
    assert Plugins.instance().get_stats().modules_import_time["hydra_plugins.alphacl"] < 0.1

main()
"""


def test_a_program_with_hydra_alone_shows_no_trace(tmp_path):
    (tmp_path / "plain.py").write_text(PLAIN)
    command = [sys.executable, "plain.py", "hydra.run.dir=.", "hydra.output_subdir=null"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.stderr == ""
    assert done.stdout.splitlines() == [
        "config: {}",
        "imported: ['omegaconf']",
        "hooks: 1",
        "ours: ['hydra_plugins.alphacl']",  # which Hydra has to look at; it imports nothing of ours
    ]
    searched = subprocess.run(
        [*command, "--info", "searchpath"], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert "alphacl" not in searched.stdout
    assert "hydra.conf" in searched.stdout


@needs_clone
@pytest.mark.slow
def test_a_misspelt_strategy_ends_the_real_script_before_data_load(tmp_path):
    text = USERS.format(defaults="[_self_]", loss="loss: {name: alpha_cl, strategy: infonc}")
    crops = "augmentations: [{crop_size: 32, num_crops: 2}]\ndevices: '1'\n"
    paths = "data: {dataset: custom, train_path: ., val_path: /nowhere}\n"
    text = "\n".join(line for line in text.splitlines() if not line.startswith("data:")) + "\n" + crops + paths
    (tmp_path / "users.yaml").write_text(text)
    command = [
        sys.executable,
        SOLO_LEARN_HOME / "main_pretrain.py",
        "--config-path",
        tmp_path,
        "--config-name",
        "users",
    ]
    environment = {**os.environ, "PYTHONWARNINGS": "ignore", "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "\nValueError: loss: strategy: expected one of" in done.stderr
