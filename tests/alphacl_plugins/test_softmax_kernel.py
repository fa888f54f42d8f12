"""The Triton kernels without a GPU: their numbers by Triton's interpreter, their code by compiling it for GPUs."""

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from oracles import random_views
from selection import slow_but

from alphacl_plugins import AlphaCLLoss, strategies

needs_triton = pytest.mark.skipif(find_spec("triton") is None, reason="needs Triton")
PRECISIONS = ("ieee", "tf32x3", "tf32")
SHARED_MEMORY = {80: 163, 86: 99, 90: 227}  # KiB that a program can have


def run_in_tritons_interpreter(file, speed):
    """In a process of its own, as Triton reads the variable once, when it is imported."""
    tests = Path(__file__).with_name(file)
    options = ["-q", "-p", "no:cacheprovider", "-o", "addopts=--import-mode=importlib"]  # interpreted_kernel.py too
    command = [sys.executable, "-m", "pytest", *options, "-k", "kernel", "-m", speed, str(tests)]
    done = subprocess.run(
        command, env=os.environ | {"TRITON_INTERPRET": "1"}, capture_output=True, text=True, cwd=tests.parents[2]
    )
    assert done.returncode == 0, done.stdout[-10_000:] + done.stderr[-2_000:]


@needs_triton
@pytest.mark.parametrize("file", ["interpreted_kernel.py", pytest.param("test_engines.py", marks=pytest.mark.slow)])
@pytest.mark.slow
def test_the_kernels_in_tritons_interpreter(file):
    run_in_tritons_interpreter(file, "not slow")


@needs_triton
@pytest.mark.slow
def test_every_combination_in_tritons_interpreter():
    run_in_tritons_interpreter("test_engines.py", "slow")


@needs_triton
@pytest.mark.parametrize("name", ["_sum_rows", "_pull"])
@pytest.mark.parametrize(
    "target", slow_but([(86, "tf32x3")], [(80, "ieee"), (80, "tf32x3"), (86, "tf32x3"), (90, "tf32x3"), (90, "tf32")])
)
@pytest.mark.parametrize("power", slow_but([1.5], [1.0, 1.5]))
def test_kernels_compile_for_a_gpu_and_fit_its_shared_memory(name, target, power, tmp_path, monkeypatch):
    """For every width of the embeddings: it is no constant of the kernels, and `_pull` has up to `_WIDTH` at once."""
    capability, precision = target
    check_compilation(name, capability, precision, power, tmp_path, monkeypatch)


@needs_triton
@pytest.mark.slow
@pytest.mark.parametrize("name", ["_sum_rows", "_pull"])
@pytest.mark.parametrize("capability", SHARED_MEMORY)
@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("power", [1.0, 2.0, 1.5])
@pytest.mark.parametrize("width", [16, 128])
def test_every_kernel_compiles(name, capability, precision, power, width, tmp_path, monkeypatch):
    check_compilation(name, capability, precision, power, tmp_path, monkeypatch, width)


def check_compilation(name, capability, precision, power, folder, monkeypatch, width=128):
    pytest.importorskip("triton", minversion="3.1")  # 3.0, of torch 2.4, describes arguments in another way
    from triton import compile
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from alphacl_plugins.engines import triton_tiles

    monkeypatch.setenv("TRITON_CACHE_DIR", str(folder))
    monkeypatch.setenv("TRITON_DEFAULT_FP_FUSION", "1")  # the default; 3.9 warns unless it is set
    kernel, tile = getattr(triton_tiles, name), dict(triton_tiles._TILE)
    options = {option: tile.pop(option) for option in ("num_warps", "num_stages")}
    constants = tile | {"POWER": power, "PRECISION": precision}
    if name == "_pull":
        assert width <= triton_tiles._WIDTH
        constants |= {"BY_ROW": True, "BY_COLUMN": True, "WIDTH": width}
    numbers = ("n_rows", "n_columns", "width", "share")
    signature = {
        argument: "constexpr"
        if argument in constants
        else "i32"
        if argument in numbers
        else "*i32"
        if argument.startswith("samples")
        else "*fp32"
        for argument in kernel.arg_names
    }
    # as Triton itself finds them for usual sizes: these decide how memory is read, and so how much is shared
    aligned = [i for i, argument in enumerate(kernel.arg_names) if argument not in constants]
    source = ASTSource(kernel, signature, constants, {(i,): [["tt.divisibility", 16]] for i in aligned})
    compiled = compile(source, target=GPUTarget("cuda", capability, 32), options=options)
    assert len(compiled.asm["cubin"]) > 1000
    assert compiled.metadata.shared <= SHARED_MEMORY[capability] * 1024
    tensor_cores = "mma" in compiled.asm["ptx"]
    assert tensor_cores == (precision != "ieee")


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (
            lambda: AlphaCLLoss(strategies.Square(0.3), block_size="kernel"),
            ValueError,
            r'block_size: expected "auto", an int >= 1 or "autograd" with Square\(tau=0.3\), got "kernel", which needs',
        ),
        (
            lambda: AlphaCLLoss("infonce", block_size="kernel", detach_alpha=False),
            ValueError,
            r'block_size: expected "auto" or "autograd" with detach_alpha=False, .* got \'kernel\'',
        ),
    ],
)
def test_options_that_the_kernels_do_not_cover_are_errors(call, error, message):
    with pytest.raises(error, match=message):
        call()


class Learning(torch.nn.Module):
    """A strategy of a user's own that has parameters and claims to factor."""

    factored = strategies.InfoNCE(0.2)

    def forward(self, d2_pos, d2_neg):
        return self.factored(d2_pos, d2_neg)


def test_a_module_of_a_users_own_is_refused():
    """Its parameters would get no gradient."""
    with pytest.raises(ValueError, match=r'"autograd" with Learning\(\), got "kernel"'):
        AlphaCLLoss(Learning(), block_size="kernel")


@needs_triton
def test_batches_that_the_kernels_do_not_cover_are_errors():
    z, z_aug = random_views(0, 5, 3, torch.float32)
    loss = AlphaCLLoss("infonce", block_size="kernel")
    with pytest.raises(ValueError, match=r'z: expected a tensor on a GPU with block_size="kernel", got one on cpu'):
        loss(z, z_aug)
    with pytest.raises(TypeError, match=r'z: expected float32, .* with block_size="kernel", got .* torch.float64'):
        loss(z.double(), z_aug)
    with pytest.raises(ValueError, match=r'labels: expected None with block_size="kernel"'):
        loss(z, z_aug, labels=torch.arange(5))


def test_without_triton_an_error_says_how_to_get_it_and_nothing_else_changes():
    code = (
        "import sys; sys.modules['triton'] = None\n"
        "import torch; from alphacl_plugins import AlphaCLLoss\n"
        "z = torch.eye(4)\n"
        "AlphaCLLoss('infonce')(z, z); AlphaCLLoss('infonce', block_size=2)(z, z)\n"
        "try:\n    AlphaCLLoss('infonce', block_size='kernel')(z, z)\nexcept ImportError as error:\n    print(error)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert 'block_size: "kernel" needs Triton: pip install triton' in done.stdout
