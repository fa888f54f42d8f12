"""α-CL on CIFAR-100 with a ResNet-50: the cells of the paper's Table 2, from images to linear accuracy.

    python examples/cifar100_resnet50.py --data-root DIR                    α-CL direct, the paper's protocol
    python examples/cifar100_resnet50.py --data-root DIR --loss infonce     the paper's baseline
    python examples/cifar100_resnet50.py --data-root DIR --limit 512 --epochs 1 --device cpu    a try, without a GPU

DIR: torchvision's files (--download fetches them), or an image folder.

Paper (Tian 2022, arXiv:2201.12680, Table 2): accuracy in % after 100, 300, 500 epochs
(mean ± std of 5 seeds; the probe's best epoch)

    infonce   60.16 ± 0.48   65.40 ± 0.31   65.53 ± 0.30
    direct    62.93 ± 0.28   65.84 ± 0.14   65.87 ± 0.21

Ours, with seeds, hardware, versions and commit: results/README.md.
"""

from recipe.main import main

if __name__ == "__main__":
    main(dataset="cifar100", backbone="resnet50", description=__doc__)
