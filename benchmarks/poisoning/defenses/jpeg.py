"""JPEG compression of the training images."""

import io

import numpy as np

from benchmarks.poisoning.defenses.registry import defense
from benchmarks.poisoning.victim import Outcome, Victim


@defense("JPEG {quality}", package="PIL")
def jpeg(victim: Victim, quality: float) -> Outcome:
    """Train on images that went through JPEG; test images stay as they are."""
    compressed = victim.with_images(through_jpeg(victim.images, int(quality)))
    return Outcome(compressed.train(), victim.everyone)


def through_jpeg(images: np.ndarray, quality: int) -> np.ndarray:
    """Compress and decompress uint8 images (n, 1 or 3, height, width)."""
    from PIL import Image

    out = np.empty_like(images)
    for image, place in zip(images, out, strict=True):
        buffer = io.BytesIO()
        pixels = image[0] if len(image) == 1 else np.moveaxis(image, 0, -1)
        Image.fromarray(pixels).save(buffer, "JPEG", quality=quality)
        decoded = np.asarray(Image.open(buffer))
        place[:] = decoded[None] if decoded.ndim == 2 else np.moveaxis(decoded, -1, 0)
    return out
