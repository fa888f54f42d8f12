"""Where a number comes from."""

import shutil
import subprocess
import sys

import provenance

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
