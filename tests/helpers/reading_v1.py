"""How photos were read before version 2, kept to check which of them are read otherwise now."""

import struct

import numpy as np
from PIL import ExifTags, Image

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")
DAMAGE = (OSError, SyntaxError, ValueError, struct.error)
UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def embedded_pixels_v1(file, enough: int, side: int) -> np.ndarray:
    """What an index embedded of a photo: opened, opened again by the model, and scaled."""
    with Image.open(file, formats=FORMATS) as image:
        photo = open_v1(open_v1(image, enough))
    return np.asarray(photo.resize((side, side), Image.Resampling.BICUBIC))


def open_v1(image: Image.Image, enough: int = 0) -> Image.Image:
    if enough:
        image.draft(None, (enough, enough))
    image.load()
    try:
        orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
    except DAMAGE:
        orientation = 1
    turn = UPRIGHT.get(orientation)
    picture = to_rgb(image)
    return picture if turn is None else picture.transpose(turn)


def to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I;16") or image.mode in ("I", "F"):
        pixels = np.nan_to_num(np.asarray(image).astype(np.float32), posinf=0.0)  # [H, W]
        ranges = (1.0, 255.0, 65535.0) if image.mode == "F" else (65535.0,)
        brightest = float(pixels.max())
        full = next((limit for limit in ranges if brightest <= limit), brightest)
        scaled = np.clip(pixels * (255.0 / full), 0, 255).round().astype(np.uint8)
        image = Image.fromarray(scaled)
    if image.mode in ("LA", "PA", "RGBA", "RGBa") or "transparency" in image.info:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")
