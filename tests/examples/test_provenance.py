"""Where a number comes from."""

import shutil
import subprocess
import sys
from pathlib import Path

import experiment
from experiment import Settings as Theory

import pytest

import provenance
import quickstart
import quickstart_run
import quickstart_settings
import reproduce
import two_encoders
from provenance import held, replace_file

SCRIPT = """
import pathlib, subprocess, provenance
before = provenance.environment()["commit"]
pathlib.Path("provenance.py").open("a").write("# changed while it runs")
subprocess.run(["git", "commit", "-qam", "second"], check=True)
print(before, provenance.environment()["commit"], provenance.commit(pathlib.Path(".")))
"""


def test_the_commit_is_that_of_the_code_that_runs(tmp_path, monkeypatch):
    for name in ("AUTHOR", "COMMITTER"):
        monkeypatch.setenv(f"GIT_{name}_NAME", "test")
        monkeypatch.setenv(f"GIT_{name}_EMAIL", "test@example.org")
    shutil.copy(provenance.__file__, tmp_path)
    for command in ("git init -q", "git add .", "git commit -qm first"):
        subprocess.run(command.split(), cwd=tmp_path, check=True)
    done = subprocess.run([sys.executable, "-c", SCRIPT], cwd=tmp_path, capture_output=True, text=True, check=True)
    before, after, now = done.stdout.split()
    assert before == after != now
    assert len(before) == len(now) == 40


STARTS = {
    "quickstart": lambda output: quickstart_run.prepare(quickstart_settings.Settings(output=output)),
    "two_encoders": lambda output: two_encoders.main(two_encoders.Settings(output=output)),
    "reproduce": lambda output: reproduce.main(reproduce.Reproduction(results=output)),
}


@pytest.mark.parametrize("name", STARTS)
def test_a_folder_that_cannot_be_written_is_refused_before_anything_is_trained(name, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(
        OSError, match=r"^output: expected a folder that can be written, got .*file/x \(Not a directory\)"
    ):
        STARTS[name](tmp_path / "file" / "x")


@pytest.mark.parametrize(
    "command_line",
    [quickstart.command_line, two_encoders.command_line, lambda: experiment.command_line(Theory, print, "")],
)
def test_a_folder_in_which_another_process_works_is_refused(command_line, tmp_path, monkeypatch):
    monkeypatch.setattr("sys.argv", ["example.py", "--output", str(tmp_path)])
    with held(tmp_path), pytest.raises(SystemExit, match=r"output: expected a folder in which nothing runs, got .*"):
        command_line()
    assert [path.name for path in tmp_path.iterdir() if path.name != ".lock"] == []


def test_a_link_to_nowhere_is_refused(tmp_path):
    (tmp_path / "runs").symlink_to(tmp_path / "gone")
    for folder in (tmp_path / "runs", tmp_path / "runs" / "deep"):
        with pytest.raises(OSError, match=r"^output: expected a folder that can be written, got .*runs"):
            provenance.check_writable(folder)


def test_a_read_only_disk_is_refused_and_a_check_leaves_nothing(tmp_path, monkeypatch):
    provenance.check_writable(tmp_path / "new" / "deep")
    assert list(tmp_path.iterdir()) == []

    def read_only(dir: Path) -> None:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr("tempfile.TemporaryFile", read_only)
    with pytest.raises(OSError, match=r"got .*new \(Read-only file system\)"):
        provenance.check_writable(tmp_path / "new")


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path):
    path = tmp_path / "deep/result.json"
    replace_file(path, lambda part: part.write_text("old"))

    def fail(part: Path) -> None:
        part.write_text("half of the new")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        replace_file(path, fail)
    assert path.read_text() == "old"
    assert list(path.parent.iterdir()) == [path]
