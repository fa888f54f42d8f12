"""Run a script of solo-learn that does not use Hydra: ``python -m alphacl_solo_learn main_knn.py ...``.

What Hydra does for the other scripts happens here: `register`. Two lines of solo-learn 1.0.6 that stop main_knn.py on
current software are made harmless, in this process alone: an option of its metric that torchmetrics no longer has, and
images that go to a GPU even where there is none.
"""

import runpy
import sys
from pathlib import Path
from typing import Any

from alphacl_solo_learn import register


def main() -> None:
    """Run the script that the command line names, with its arguments."""
    if len(sys.argv) < 2 or not Path(sys.argv[1]).is_file():
        sys.exit("usage: python -m alphacl_solo_learn SCRIPT.py [ARGUMENT ...], in a clone of solo-learn")
    sys.argv = sys.argv[1:]
    sys.path[0] = str(Path(sys.argv[0]).resolve().parent)
    register()
    _accept_old_metrics()
    _stay_on_the_cpu_if_need_be()
    runpy.run_path(sys.argv[0], run_name="__main__")


def _accept_old_metrics() -> None:
    from torchmetrics import Metric

    init = Metric.__init__

    def without_compute_on_step(self: Metric, **options: Any) -> None:
        options.pop("compute_on_step", None)
        init(self, **options)

    Metric.__init__ = without_compute_on_step  # type: ignore[method-assign]


def _stay_on_the_cpu_if_need_be() -> None:
    import torch

    if not torch.cuda.is_available():
        torch.Tensor.cuda = lambda self, *_, **__: self  # type: ignore[method-assign]


if __name__ == "__main__":
    main()
