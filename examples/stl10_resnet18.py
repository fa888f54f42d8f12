"""α-CL on STL-10 with a ResNet-18: the cells of the paper's Tables 1 and 2, from images to linear accuracy.

    python examples/stl10_resnet18.py --data-root DIR                    α-CL direct, the paper's protocol
    python examples/stl10_resnet18.py --data-root DIR --loss infonce     the paper's baseline
    python examples/stl10_resnet18.py --data-root DIR --limit 512 --epochs 1 --device cpu    a try, without a GPU

DIR: torchvision's files (--download fetches them), or an image folder; pretraining uses train + unlabeled.

Paper (Tian 2022, arXiv:2201.12680, Tables 1 and 2): accuracy in % after 100, 300, 500 epochs
(mean ± std of 5 seeds; the probe's best epoch)

    infonce   78.46 ± 0.24   82.49 ± 0.26   83.70 ± 0.12
    direct    79.32 ± 0.36   82.95 ± 0.17   84.05 ± 0.20

Ours, with seeds, hardware, versions and commit: results/README.md.
"""

from recipe.main import main

if __name__ == "__main__":
    main(dataset="stl10", backbone="resnet18", description=__doc__)
