"""Embedded ICC profiles: pixels converted to sRGB, which is what models and browsers expect."""

import io
from functools import lru_cache

import numpy as np
from PIL import Image, ImageCms

_REMEMBERED = 32  # transforms; most photos of a library share a handful of profiles
_LARGEST = 4 << 20  # bytes of a profile, more than even those of printing inks have
_SAME = 2  # of 255: a profile that moves no colour further is sRGB itself
_GREY, _INK, _COLOURED = "GRAY", "CMYK", "RGB "  # colour spaces, as profiles name them
_FLAGS = ImageCms.Flags.BLACKPOINTCOMPENSATION


def to_srgb(image: Image.Image, shrink: int = 1) -> Image.Image:
    """Convert a decoded photo to sRGB by the profile that is embedded in it.

    Parameters
    ----------
    image : PIL.Image.Image
        Any mode; its profile is ``info["icc_profile"]``.
    shrink : int
        Scale the photo down by this factor before it is converted.

    Returns
    -------
    PIL.Image.Image
        Mode "RGB", or "RGBA" where it has transparency; the same image where it has no profile, a
        broken one, one of another kind of pixels, or one of sRGB.
    """
    transform = conversion_of(image)
    if transform is None:
        return image
    mode = transform.input_mode
    alpha = image.convert("LA").getchannel("A") if mode == "L" and _is_clear(image) else None
    plain = image if image.mode == mode else image.convert(mode)
    if shrink > 1:
        plain = plain.reduce(shrink)
        alpha = alpha.reduce(shrink) if alpha else None
    converted = transform.apply(plain)
    if alpha:
        converted.putalpha(alpha)
    return converted


def conversion_of(image: Image.Image) -> ImageCms.ImageCmsTransform | None:
    """Return what `to_srgb` does to a photo, from its header alone; None if nothing."""
    profile = image.info.get("icc_profile")
    space = _space_of(profile) if isinstance(profile, bytes) else None
    grey = image.mode in ("1", "L", "LA", "I", "F") or image.mode.startswith("I;16")
    if space == _GREY and grey:
        return _transform_of(profile, "L")
    if space == _INK and image.mode == "CMYK":
        return _transform_of(profile, "CMYK")
    if space == _COLOURED and image.mode not in ("CMYK", "LAB", "HSV"):
        return _transform_of(profile, "RGBA" if _is_clear(image) else "RGB")
    return None


def _is_clear(image: Image.Image) -> bool:
    return image.mode in ("LA", "La", "PA", "RGBA", "RGBa") or "transparency" in image.info


@lru_cache(_REMEMBERED)
def _space_of(profile: bytes) -> str | None:
    """Return the colour space that a profile describes, such as "RGB "; None if it is broken."""
    if len(profile) > _LARGEST:
        return None
    try:
        return ImageCms.ImageCmsProfile(io.BytesIO(profile)).profile.xcolor_space
    except (OSError, ValueError, TypeError):
        return None


@lru_cache(_REMEMBERED)
def _transform_of(profile: bytes, mode: str) -> ImageCms.ImageCmsTransform | None:
    """Return what converts pixels to sRGB.

    Parameters
    ----------
    profile : bytes
        An ICC profile.
    mode : str
        "L", "RGB", "RGBA" or "CMYK", as the profile's colour space has it.

    Returns
    -------
    ImageCms.ImageCmsTransform or None
        Gives "RGBA" for "RGBA", else "RGB"; None if the profile is broken, or of sRGB.
    """
    output = "RGBA" if mode == "RGBA" else "RGB"
    try:
        transform = ImageCms.ImageCmsTransform(
            ImageCms.ImageCmsProfile(io.BytesIO(profile)),
            ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")),
            mode,
            output,
            ImageCms.Intent.RELATIVE_COLORIMETRIC,
            flags=_FLAGS,
        )
    except (OSError, ValueError, TypeError):
        return None
    if mode == "CMYK":
        return transform
    sample = _sample(mode)
    moved = np.asarray(transform.apply(sample).convert("RGB"), dtype=np.int16)
    same = np.abs(moved - np.asarray(sample.convert("RGB"))).max() <= _SAME
    return None if same else transform


def _sample(mode: str) -> Image.Image:
    """Return a picture of colours all over the range."""
    steps = np.linspace(0, 255, 9).round().astype(np.uint8)
    cube = np.stack(np.meshgrid(steps, steps, steps, indexing="ij"), axis=-1)  # [9, 9, 9, 3]
    return Image.fromarray(cube.reshape(27, 27, 3)).convert(mode)
