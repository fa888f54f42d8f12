"""Which α helps on this data? A paired study of contrastive losses, each tuned, against tuned InfoNCE.

    python examples/study.py --data-root DIR                                  an image folder, an hour on two cores
    python examples/study.py --data-root DIR --strategies direct square my_module.MyAlpha --seeds 8 --minutes 120
    python examples/study.py --data-root DIR --steps paper                    Table 1's rows with the paper's options
    python examples/study.py --data-root DIR --run .runs/study/runs/tuned/NAME.json     one run again, compared

Within a seed every loss has the same first weights, batches and views. Each row's temperature is chosen on held-out
training images, with as many trials for every row, from values that span about 200 to 4 effective negatives; then the
row is judged once on the test images by a linear probe and nearest neighbours. A table and two pictures show the
differences to tuned InfoNCE. Each run is a JSON; after Ctrl-C or a crash the same command goes on where it stopped.
"""

import signal
from types import FrameType

from command_line import grouped, in_one_line

from paired.settings import Settings


def command_line() -> None:
    """Read the options; end with one line where a user can do something about an error, and at Ctrl-C."""
    signal.signal(signal.SIGTERM, _as_interrupt)
    with in_one_line(TypeError, ImportError, goes_on="the same command goes on"):
        settings = grouped(Settings, __doc__)
        from paired.study import main  # after the options: --help is quick

        main(settings)


def _as_interrupt(received: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    command_line()
