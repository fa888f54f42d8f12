"""α-CL on STL-10 with a ResNet-50: the cells of the paper's Table 2, from images to linear accuracy.

    python examples/stl10_resnet50.py --data-root DIR                    α-CL direct, the paper's protocol
    python examples/stl10_resnet50.py --data-root DIR --loss infonce     the paper's baseline
    python examples/stl10_resnet50.py --data-root DIR --limit 512 --epochs 1 --device cpu    a try, without a GPU

DIR: torchvision's files (--download fetches them), or an image folder; pretraining uses train + unlabeled.

Paper (Tian 2022, arXiv:2201.12680, Table 2): accuracy in % after 100, 300, 500 epochs
(mean ± std of 5 seeds; the probe's best epoch)

    infonce   81.64 ± 0.24   86.57 ± 0.17   87.90 ± 0.22
    direct    83.20 ± 0.25   87.17 ± 0.14   87.85 ± 0.21

Ours, with seeds, hardware, versions and commit: results/README.md.
"""

from recipe.main import main

if __name__ == "__main__":
    main(dataset="stl10", backbone="resnet50", description=__doc__)
