"""Any timm ResNet as a backbone at 32-96 px: ``create_backbone("resnet18", image_size=32)``."""

from alphacl_timm.backbone import create_backbone

__all__ = ["create_backbone"]
