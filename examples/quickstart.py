"""Train α-CL and InfoNCE side by side on images, then see what their features know.

    python examples/quickstart.py                     handwritten digits: no download, no GPU, about three minutes
    python examples/quickstart.py --data-root DIR --backbone resnet18 --epochs 20     any image folder

Both losses start from the same weights and see the same batches and augmentations; an untrained network is the floor.
The features are judged by a linear probe (all labels, and 10 per class) and by nearest neighbours, on held-out images.
A table goes to the terminal. The output folder gets every number (quickstart.json), their curves (quickstart.png) and
the held-out features in two dimensions (embeddings.png).

The parts, each a file beside this one: quickstart_data (images), quickstart_training (views, network, Lightning loop),
quickstart_evaluation (probes), quickstart_report (table, JSON, with paired/interval.py) and quickstart_picture.
"""

from command_line import grouped, in_one_line

from provenance import held
from quickstart_settings import Settings


def command_line() -> None:
    """Run with the options of the command line; an error that a user can mend is one line."""
    with in_one_line(TypeError, ImportError):
        settings = grouped(Settings, __doc__)
        from quickstart_run import prepare, run  # after the options: --help is quick

        images = prepare(settings)
        with held(settings.output):
            run(settings, images)


if __name__ == "__main__":
    command_line()
