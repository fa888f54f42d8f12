"""What Pillow opens, as RGB of 8 bits: its own conversion cuts deeper grey off at 255, and nearly all turns white."""

import numpy as np
import numpy.typing as npt
from PIL import Image

BITS_PER_SAMPLE, PHOTOMETRIC, WHITE_IS_ZERO, SAMPLE_FORMAT, SIGNED = 258, 262, 0, 339, 2
"""Tags of TIFF, each of the last two with a value."""


def to_rgb(image: Image.Image) -> Image.Image:
    """Return the image as RGB: grey of 12 or 16 bits is scaled by the range of its type, transparency is dropped.

    Raises: ValueError for pixels whose range is not known: floats, and integers of 32 bits or with a sign.
    """
    if bits := _depth(image):
        values, top = _values(image), 2**bits - 1
        return Image.fromarray(((values * 255 + top // 2) // top).astype(np.uint8)).convert("RGB")
    if image.mode in ("P", "PA"):  # by way of the transparency of the palette, which Pillow warns of otherwise
        image = image.convert("RGBA")
    return image.convert("RGB")


def used_range(image: Image.Image) -> float | None:
    """Return the brightest pixel as a share of the range of 12 or 16 bits; None for an image of 8 bits."""
    bits = _depth(image)
    return float(_values(image).max() / (2**bits - 1)) if bits else None


def _depth(image: Image.Image) -> int | None:
    """Bits of a pixel of one deep channel; None where Pillow's own conversion is right."""
    signed = image.format == "TIFF" and SIGNED in image.tag_v2.get(SAMPLE_FORMAT, ())  # type: ignore[attr-defined]
    if not image.mode.startswith(("I", "F")) and not signed:
        return None
    if image.format == "TIFF" and image.mode.startswith("I;16"):
        return int(image.tag_v2[BITS_PER_SAMPLE][0])  # type: ignore[attr-defined]  # of Pillow's TIFF images
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format in ("PNG", "PPM")):
        return 16
    kind = "floats" if image.mode == "F" else "32-bit or signed integers"
    raise ValueError(f"expected pixels of 8 or 16 bits, got {kind}, whose range is not known")


def _values(image: Image.Image) -> npt.NDArray[np.uint32]:
    values = np.asarray(image).astype(np.uint32)
    if image.format == "TIFF" and image.tag_v2.get(PHOTOMETRIC) == WHITE_IS_ZERO:  # type: ignore[attr-defined]
        return np.uint32(2**16 - 1) - values  # Pillow inverts 8 bits, and leaves 16
    return values
