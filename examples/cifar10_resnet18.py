"""α-CL on CIFAR-10 with a ResNet-18: the cells of the paper's Tables 1 and 2, from images to linear accuracy.

    python examples/cifar10_resnet18.py --data-root DIR                    α-CL direct, the paper's protocol
    python examples/cifar10_resnet18.py --data-root DIR --loss infonce     the paper's baseline
    python examples/cifar10_resnet18.py --data-root DIR --limit 512 --epochs 1 --device cpu    a try, without a GPU

DIR: torchvision's files (--download fetches them), or an image folder.

Paper (Tian 2022, arXiv:2201.12680, Tables 1 and 2): accuracy in % after 100, 300, 500 epochs
(mean ± std of 5 seeds; the probe's best epoch)

    infonce   84.06 ± 0.30   87.63 ± 0.13   87.86 ± 0.12
    direct    85.11 ± 0.19   87.93 ± 0.16   88.09 ± 0.13

Ours, with seeds, hardware, versions and commit: results/README.md.
"""

from recipe.main import main

if __name__ == "__main__":
    main(dataset="cifar10", backbone="resnet18", description=__doc__)
