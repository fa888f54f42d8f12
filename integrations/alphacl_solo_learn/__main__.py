"""Run a script of solo-learn that does not use Hydra: ``python -m alphacl_solo_learn main_knn.py ...``."""

import runpy
import sys
from pathlib import Path

from alphacl_solo_learn import register

if __name__ == "__main__":
    if len(sys.argv) < 2 or not Path(sys.argv[1]).is_file():
        sys.exit("usage: python -m alphacl_solo_learn SCRIPT.py [ARGUMENT ...], in a clone of solo-learn")
    sys.argv = sys.argv[1:]
    sys.path[0] = str(Path(sys.argv[0]).resolve().parent)
    register()
    runpy.run_path(sys.argv[0], run_name="__main__")
