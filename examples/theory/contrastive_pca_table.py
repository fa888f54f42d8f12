"""ContrastivePCA beside PCA, LDA and the features as they are: linear-probe accuracy and time.

    python examples/theory/contrastive_pca_table.py                                     scikit-learn's digits
    python examples/theory/contrastive_pca_table.py --data-root DIR --pixels 5000       and some pixels of CIFAR-10
    python examples/theory/contrastive_pca_table.py --data-root DIR --checkpoint FILE   and a network's features

DIR: torchvision's files (--download fetches them), or an image folder. All 50,000 images, the default, take 7 to 11
minutes a turn on one core. FILE: a checkpoint of examples/cifar10_resnet18.py, of any backbone (--backbone NAME). Each
data set has its JSON file.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
from command_line import grouped, in_one_line

from pca_settings import Settings
from provenance import held

if __name__ == "__main__":
    with in_one_line(TypeError):
        options = grouped(Settings, __doc__)
        from pca_comparison import main  # after the options: --help is quick

        with held(options.output):
            main(options)
