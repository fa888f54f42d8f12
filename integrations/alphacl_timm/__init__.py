"""Any timm model as a backbone for small images: ``create_backbone("resnet18", image_size=32)``."""

from alphacl_timm.backbone import create_backbone, open_residuals

__all__ = ["create_backbone", "open_residuals"]
