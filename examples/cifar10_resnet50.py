"""α-CL on CIFAR-10 with a ResNet-50: the cells of the paper's Table 2, from images to linear accuracy.

    python examples/cifar10_resnet50.py --data-root DIR                    α-CL direct, the paper's protocol
    python examples/cifar10_resnet50.py --data-root DIR --loss infonce     the paper's baseline
    python examples/cifar10_resnet50.py --data-root DIR --limit 512 --epochs 1 --device cpu    a try, without a GPU

DIR: torchvision's files (--download fetches them), or an image folder.

Paper (Tian 2022, arXiv:2201.12680, Table 2): accuracy in % after 100, 300, 500 epochs
(mean ± std of 5 seeds; the probe's best epoch)

    infonce   86.39 ± 0.16   89.97 ± 0.14   90.19 ± 0.23
    direct    87.79 ± 0.25   90.41 ± 0.18   90.50 ± 0.21

Ours, with seeds, hardware, versions and commit: results/README.md.
"""

from recipe.main import main

if __name__ == "__main__":
    main(dataset="cifar10", backbone="resnet50", description=__doc__)
