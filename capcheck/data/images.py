"""Reader of a folder of images, as rows of pixels from 0 to 255.

Every image of the folder is one row, in the order of the file names. 8-bit values are kept, 16-bit
grey is divided by 257 (65535 / 257 = 255), and black and white are 0 and 255. The result is grey,
(n, H, W, 1), if all images are stored as grey, else red, green and blue, (n, H, W, 3).
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image

from capcheck.core.errors import InputError
from capcheck.data.contents import reason

__all__ = ["FORMATS", "GREY_8", "GREY_16", "MOST_NUMBERS", "SUFFIXES", "read_images"]

MOST_NUMBERS = 1 << 29  # most numbers (pixels x channels) of all images together: 4 GiB
SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")
# Formats that Pillow may detect in a file; not EPS, which Pillow passes to an interpreter.
FORMATS = ("BMP", "GIF", "JPEG", "PNG", "TIFF", "WEBP")
GREY_8 = ("1", "L", "LA")
GREY_16 = ("I;16", "I;16B", "I;16L", "I;16N")


def read_images(folder: Path) -> np.ndarray:
    """Read all images of a folder.

    Hidden files, files with other suffixes, and subfolders are ignored. Transparency is dropped, a
    palette is replaced by its colours (and counts as grey if all of them are), only the first frame
    is read, and an EXIF rotation is not applied. A WebP file always has colours.

    Returns:
        float64 (n, H, W, C) of 0..255, C = 1 if every image is grey, else 3.

    Raises:
        InputError: There is no image, the images together have more than `MOST_NUMBERS` numbers or
            differ in size, or an image is damaged, too large, or has pixels without a known range
            (32-bit integers, floating point).
    """
    files = _image_files(folder)
    heads = [_head(file) for file in files]
    for file, (size, _) in zip(files, heads, strict=True):
        if size != heads[0][0]:
            raise InputError(
                f"data {str(folder)!r} must hold images of one size, got {_size(heads[0][0])} for "
                f"{files[0].name!r} and {_size(size)} for {file.name!r}; crop or scale them."
            )
    width, height = heads[0][0]
    channels = 1 if all(grey for _, grey in heads) else 3
    numbers = len(files) * height * width * channels
    if numbers > MOST_NUMBERS:
        raise InputError(
            f"data {str(folder)!r} must hold at most {MOST_NUMBERS} numbers, got {numbers} in "
            f"{len(files)} images of {_size((width, height))}; scale them down, or use fewer."
        )
    pixels = np.empty((len(files), height, width, channels))  # (n, H, W, C)
    for row, file in zip(pixels, files, strict=True):
        row[...] = _pixels(file)  # (H, W, 1) fills all three channels
    return pixels


def _image_files(folder: Path) -> list[Path]:
    try:
        found = sorted(
            path
            for path in folder.iterdir()
            if path.suffix.lower() in SUFFIXES and path.name[0] != "." and not path.is_dir()
        )
    except OSError as error:
        raise InputError(
            f"data {str(folder)!r} cannot be opened as a folder of images ({error.strerror}); "
            "check the path."
        ) from None
    if not found:
        raise InputError(
            f"data {str(folder)!r} must be a folder of images ({', '.join(SUFFIXES)}), got none; "
            "put them into the folder itself, not below it."
        )
    for path in found:
        if path.is_symlink() and not path.exists():
            raise InputError(
                f"data {str(path)!r} is a link to {os.readlink(path)!r}, which does not exist; "
                "mend or remove the link."
            )
        if path.exists() and not path.is_file():
            raise InputError(
                f"data {str(path)!r} must be an image file, got something else; remove it."
            )
    return found


def _head(file: Path) -> tuple[tuple[int, int], bool]:
    """Size (width, height) of an image and whether it is grey, without decoding its pixels."""
    with _opened(file) as image:
        if image.mode in ("I", "F"):
            raise InputError(
                f"data {str(file)!r} must have 8 or 16 bits per channel, got 32-bit pixels "
                f"(mode {image.mode}), whose range is unknown; convert it."
            )
        return image.size, image.mode in GREY_8 + GREY_16 or _is_grey_palette(image)


def _is_grey_palette(image: Image.Image) -> bool:
    colours = np.reshape(image.getpalette() or [], (-1, 3))  # (colours, 3)
    return image.mode == "P" and bool((np.ptp(colours, axis=1) == 0).all())


def _pixels(file: Path) -> np.ndarray:
    """Pixels from 0 to 255 of an image, (H, W, 1) if it is grey, else (H, W, 3)."""
    with _opened(file) as image:
        if image.mode in GREY_8 or _is_grey_palette(image):
            return np.asarray(image.convert("L"), dtype=np.float64)[..., None]
        if image.mode in GREY_16:
            return np.asarray(image, dtype=np.float64)[..., None] / 257
        return np.asarray(image.convert("RGB"), dtype=np.float64)


@contextmanager
def _opened(file: Path) -> Iterator[Image.Image]:
    """Open an image; every error, also of decoding within the context, becomes an InputError."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(file, formats=FORMATS) as image:
                yield image
    except InputError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise InputError(
            f"data {str(file)!r} must have at most {Image.MAX_IMAGE_PIXELS} pixels, got more; "
            "scale it down."
        ) from None
    except Exception as error:  # decoders raise nearly anything on damaged files
        raise InputError(
            f"data {str(file)!r} cannot be read as an image ({reason(error)}); replace or "
            "remove it."
        ) from None


def _size(size: tuple[int, int]) -> str:
    return f"{size[0]}x{size[1]} pixels"
