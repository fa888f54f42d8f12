"""Any timm backbone at small image sizes."""
