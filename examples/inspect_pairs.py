"""The pairs of images that a loss pushes apart hardest: false negatives, near-duplicates and label errors of your data.

    python examples/inspect_pairs.py --checkpoint .runs/cifar10_resnet18/direct-seed0/last.ckpt --data-root DIR
    python examples/inspect_pairs.py --backbone resnet18 --pretrained --data-root DIR     any timm model

Every image is embedded, and each strategy weighs all pairs as if they were one batch. In the output folder: pairs.csv,
pairs.html (one file, opens in a browser, sorts by a click) and a sheet of the first pairs for each strategy.
"""

from command_line import in_one_line

import tyro

from inspected.settings import Settings

if __name__ == "__main__":
    settings = tyro.cli(Settings, description=__doc__)
    with in_one_line(TypeError, ImportError):
        from inspected.run import main  # after the options: --help is quick

        main(settings)
