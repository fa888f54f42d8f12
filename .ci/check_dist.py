"""What a wheel and an sdist contain, beside what they should: ``python .ci/check_dist.py dist``."""

import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
ONLY_IN_GIT = (".github/", ".pre-commit-config.yaml")


def packaged(path: str) -> str:
    """Return the name of a file of the repository in the wheel."""
    return path.removeprefix("integrations/")


def differences(what: str, found: set[str], expected: set[str]) -> list[str]:
    """Say which files are missing and which are too many."""
    missing, more = sorted(expected - found), sorted(found - expected)
    return [f"{what}: missing {name}" for name in missing] + [f"{what}: unexpected {name}" for name in more]


def main(folder: Path) -> None:
    """Compare with git's list of files; SystemExit if something differs."""
    (wheel,), (sdist,) = folder.glob("*.whl"), folder.glob("*.tar.gz")
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True)
    tracked = listed.stdout.splitlines()
    with zipfile.ZipFile(wheel) as file:
        in_wheel = {name for name in file.namelist() if ".dist-info/" not in name}
        about = {name.split(".dist-info/")[1] for name in file.namelist() if ".dist-info/" in name}
    with tarfile.open(sdist) as file:
        in_sdist = {member.name.partition("/")[2] for member in file if member.isfile()}
    packages = {packaged(name) for name in tracked if name.startswith(("alphacl_plugins/", "integrations/"))}
    pictures = {name for name in tracked if name.startswith("results/") and name.endswith(".png")}
    kept = {name for name in tracked if not name.startswith(ONLY_IN_GIT)} - pictures
    wrong = [
        *differences("wheel", in_wheel, packages),
        *differences("wheel metadata", about, {"METADATA", "RECORD", "WHEEL", "licenses/LICENSE"}),
        *differences("sdist", in_sdist, kept | {"PKG-INFO"}),
    ]
    if wrong:
        sys.exit("\n".join(wrong))
    print(f"{wheel.name}: {len(in_wheel)} files; {sdist.name}: {len(in_sdist)} files; as they should be")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
