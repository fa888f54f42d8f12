"""Every script of the examples and benchmarks as a command: what --help imports, and a package that is missing."""

import re
import subprocess
import sys
from pathlib import Path

from command_line import EXTRAS, PACKAGES, grouped

import pytest

from recipe.options import Strategy
from recipe.settings import Settings

ROOT = Path(__file__).parents[2]
SCRIPTS = [
    path
    for folder in ("examples", "examples/theory", "benchmarks")
    for path in sorted((ROOT / folder).glob("*.py"))
    if '__name__ == "__main__"' in path.read_text(encoding="utf-8") and path.name != "loss_measurements.py"  # a child
]
HELP = [path if path.stem == "quickstart" else pytest.param(path, marks=pytest.mark.slow) for path in SCRIPTS]
HEAVY = ("lightning", "lightly", "timm", "kornia", "matplotlib", "sklearn", "scipy", "torchvision", "transformers")
DISTRIBUTIONS = {
    "PIL": "torchvision", "sklearn": "scikit-learn", "open_clip": "open_clip_torch", "numpy": "lightly",
    "datasets": "sentence-transformers[train]", "tokenizers": "sentence-transformers",
    "transformers": "sentence-transformers", "alphacl_plugins": "alphacl-plugins",
}  # fmt: skip
"""Import name -> what brings it."""
RUN = """
import runpy, sys
class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {missing}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Missing())
sys.argv = {arguments}
sys.path.insert(0, {folder!r})
try:
    runpy.run_path(sys.argv[0], run_name="__main__")
finally:
    print("imported:", *sorted(set({heavy}) & set(sys.modules)))
"""


def run(script: Path, *options: str, missing: tuple[str, ...] = (), folder: Path = ROOT) -> subprocess.CompletedProcess:
    code = RUN.format(missing=missing, arguments=[str(script), *options], folder=str(script.parent), heavy=HEAVY)
    return subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True)


def name_of(script: Path) -> str:
    return script.stem


@pytest.mark.parametrize("script", SCRIPTS, ids=name_of)
def test_without_the_extras_a_script_says_in_one_line_how_to_install_them(script):
    done = run(script, "--help", missing=tuple(EXTRAS))
    own = script.parent.name.replace("theory", "examples")
    assert done.returncode == 1
    assert re.fullmatch(rf'{script.stem}: needs \w+: pip install "\.\[{own}\]"\n', done.stderr)


@pytest.mark.parametrize(
    ("script", "options", "package", "extras"),
    [
        ("examples/quickstart.py", (), "lightning", "examples"),
        ("examples/pairs.py", ("--output", "x.png"), "matplotlib", "examples"),
        ("examples/metric_learning_digits.py", (), "pytorch_metric_learning", "examples,metric-learning"),
        ("benchmarks/backbones.py", ("resnet18",), "timm", "benchmarks"),
    ],
)
def test_a_package_that_is_missed_later_is_named_too(tmp_path, script, options, package, extras):
    done = run(ROOT / script, *options, missing=(package,), folder=tmp_path)
    assert done.returncode == 1
    last = done.stderr.splitlines()[-1]
    assert last == f'{Path(script).stem}: needs {package}: pip install "{ROOT}[{extras}]"'
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("script", HELP, ids=name_of)
def test_help_imports_nothing_heavy_from_any_folder(script, tmp_path):
    done = run(script, "--help", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "usage:" in done.stdout
    assert done.stdout.splitlines()[-1] == "imported:"


def test_every_package_is_a_dependency_and_every_extra_exists():
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    for extra, packages in PACKAGES.items():
        assert f"\n{extra} = [" in project
        for package in packages:
            assert DISTRIBUTIONS.get(package, package.replace("_", "-")) in project


def test_options_are_in_groups_under_their_own_names(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["recipe.py", "--lr", "0.5", "--tau", "0.2", "--eval-epochs", "3", "4"])
    assert grouped(Settings, None, Settings(backbone="resnet50")) == Settings(
        backbone="resnet50", learning_rate=0.5, tau=0.2, eval_epochs=(3, 4)
    )
    monkeypatch.setattr(sys, "argv", ["recipe.py", "--help"])
    with pytest.raises(SystemExit, match=r"^0$"):
        grouped(Settings, None)
    shown = " ".join(capsys.readouterr().out.replace("│", " ").split())
    assert " strategy options " in shown
    assert str(Strategy.__doc__) in shown
    assert "registered: adnce, circle," in shown


def test_options_that_do_not_go_together_are_one_error(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["recipe.py", "--tau", "-1"])
    with pytest.raises(ValueError, match=r"^Direct.tau: expected a finite number > 0, got -1.0$"):
        grouped(Settings, None)
