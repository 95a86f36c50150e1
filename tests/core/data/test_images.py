from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from capcheck.core.errors import InputError
from capcheck.data import images
from capcheck.data.files import read
from capcheck.data.images import read_images

RNG = np.random.default_rng(11)
GREY = RNG.integers(0, 256, size=(5, 4), dtype=np.uint8)  # 4 pixels wide, 5 high
COLOUR = RNG.integers(0, 256, size=(5, 4, 3), dtype=np.uint8)
NOISE = RNG.integers(0, 256, size=(40, 40, 3), dtype=np.uint8)
HOSTILE = ['it\'s "quoted"', "line\nbreak", "[red]x[bold]", "\x1b[31mred"]


def save(path: Path, pixels: np.ndarray, mode: str | None = None) -> Path:
    image = Image.fromarray(pixels)
    (image.convert(mode) if mode else image).save(path)
    return path


def refuse(folder: Path, message: str) -> None:
    """Assert that reading fails in one printable sentence."""
    with pytest.raises(InputError, match=message) as caught:
        read_images(folder)
    assert str(caught.value).isprintable()
    assert str(caught.value).endswith(".")


@pytest.mark.parametrize("suffix", ["png", "bmp", "gif", "tif", "tiff", "PNG"])
def test_grey_images_without_loss(tmp_path: Path, suffix: str) -> None:
    save(tmp_path / f"b.{suffix}", GREY)
    save(tmp_path / f"a.{suffix}", 255 - GREY)
    read_back = read_images(tmp_path)
    assert read_back.dtype == np.float64
    assert read_back.shape == (2, 5, 4, 1)
    assert np.array_equal(read_back[..., 0], [255.0 - GREY, GREY])  # in the order of names


@pytest.mark.parametrize("suffix", ["png", "bmp", "tif"])
def test_colour_images_without_loss(tmp_path: Path, suffix: str) -> None:
    save(tmp_path / f"a.{suffix}", COLOUR)
    assert np.array_equal(read_images(tmp_path), COLOUR[None])
    assert np.array_equal(read(str(tmp_path)), COLOUR[None])


@pytest.mark.parametrize(("suffix", "channels"), [("jpg", 1), ("jpeg", 1), ("webp", 3)])
def test_lossy_images_are_close(tmp_path: Path, suffix: str, channels: int) -> None:
    ramp = np.add.outer(np.arange(16), np.arange(16)).astype(np.uint8) * 8
    save(tmp_path / f"a.{suffix}", ramp)
    read_back = read_images(tmp_path)
    assert read_back.shape == (1, 16, 16, channels)
    assert np.abs(read_back - ramp[..., None]).max() < 16


def test_grey_among_colour_fills_all_channels(tmp_path: Path) -> None:
    save(tmp_path / "a.png", GREY)
    save(tmp_path / "b.png", COLOUR)
    save(tmp_path / "c.png", GREY.astype(np.uint16) * 257)
    read_back = read_images(tmp_path)
    grey = np.repeat(GREY[..., None], 3, axis=-1)
    assert np.array_equal(read_back, [grey, COLOUR, grey])


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_16_bit_grey_is_scaled(tmp_path: Path, suffix: str) -> None:
    deep = np.array([[0, 1, 257], [32768, 65534, 65535]], dtype=np.uint16)
    save(tmp_path / f"a.{suffix}", deep)
    # 257 / 257 = 1 and 65535 / 257 = 255
    assert read_images(tmp_path)[0, ..., 0] == pytest.approx(deep / 65535 * 255)
    assert read_images(tmp_path).max() == 255


def test_other_modes(tmp_path: Path) -> None:
    save(tmp_path / "a.png", np.array([[0, 255]], dtype=np.uint8), "1")
    assert read_images(tmp_path).ravel().tolist() == [0, 255]
    save(tmp_path / "a.png", np.array([[[7, 0], [8, 255]]], dtype=np.uint8))  # grey and alpha
    assert read_images(tmp_path).ravel().tolist() == [7, 8]
    save(tmp_path / "a.png", np.array([[[1, 2, 3, 0], [4, 5, 6, 99]]], dtype=np.uint8))
    assert read_images(tmp_path).tolist() == [[[[1, 2, 3], [4, 5, 6]]]]


@pytest.mark.parametrize("transparency", [None, 1, bytes([0, 128])])
def test_a_palette_is_read_as_its_colours(tmp_path: Path, transparency: int | bytes | None) -> None:
    image = Image.fromarray(np.array([[0, 1, 1]], dtype=np.uint8)).convert("P")
    image.putpalette([10, 20, 30, 40, 50, 60])
    image.save(tmp_path / "a.png", transparency=transparency)
    expected = [[[10, 20, 30], [40, 50, 60], [40, 50, 60]]]
    assert read_images(tmp_path).tolist() == [expected]


def test_a_palette_of_greys_is_grey(tmp_path: Path) -> None:
    image = Image.fromarray(np.array([[0, 1, 1]], dtype=np.uint8)).convert("P")
    image.putpalette([10, 10, 10, 40, 40, 40])
    image.save(tmp_path / "a.gif")
    assert read_images(tmp_path).tolist() == [[[[10], [40], [40]]]]
    image.putpalette([10, 10, 10, 40, 40, 41])
    image.save(tmp_path / "a.gif")
    assert read_images(tmp_path).tolist() == [[[[10, 10, 10], [40, 40, 41], [40, 40, 41]]]]


def test_cmyk_becomes_red_green_blue(tmp_path: Path) -> None:
    # cyan 255 takes all of the red
    Image.new("CMYK", (8, 8), (255, 0, 0, 0)).save(tmp_path / "a.jpg", quality=100)
    assert read_images(tmp_path)[0, 4, 4] == pytest.approx([0, 255, 255], abs=3)


def test_other_files_are_ignored(tmp_path: Path) -> None:
    save(tmp_path / "a.png", GREY)
    (tmp_path / ".b.png").write_bytes(b"hidden")
    (tmp_path / "notes.txt").write_text("no image")
    (tmp_path / "c.png").mkdir()
    save(tmp_path / "c.png" / "d.png", COLOUR)
    assert read_images(tmp_path).shape == (1, 5, 4, 1)


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_names_are_read_and_shown_escaped(tmp_path: Path, name: str) -> None:
    folder = tmp_path / name
    folder.mkdir()
    refuse(folder, "must be a folder of images")
    path = save(folder / f"{name}.png", GREY)
    assert read_images(folder).shape == (1, 5, 4, 1)
    save(folder / "z.png", GREY[1:])
    refuse(folder, "one size, got 4x5 pixels for .* and 4x4 pixels for 'z.png'; crop or scale")
    path.write_bytes(b"no image")
    with pytest.raises(InputError) as caught:
        read_images(folder)
    assert str(caught.value).startswith(f"data {str(path)!r} cannot be read as an image (")
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("suffix", ["png", "bmp", "gif", "tif", "jpg", "webp"])
def test_truncated_images_are_refused(tmp_path: Path, suffix: str) -> None:
    path = save(tmp_path / f"a.{suffix}", NOISE)
    assert read_images(tmp_path).shape == (1, 40, 40, 3)
    whole = path.read_bytes()
    # an end marker of up to 12 bytes may be missing without any loss
    for kept in (0, 1, 10, 20, *np.linspace(30, len(whole) - 40, 9, dtype=int)):
        path.write_bytes(whole[:kept])
        refuse(
            tmp_path,
            rf"^data .*a\.{suffix}' cannot be read as an image \(.*\); replace or remove it\.$",
        )


def test_damaged_images_are_refused(tmp_path: Path) -> None:
    path = save(tmp_path / "a.png", NOISE)
    damaged = bytearray(path.read_bytes())
    damaged[len(damaged) // 2] ^= 1
    path.write_bytes(damaged)
    refuse(tmp_path, "cannot be read")
    (tmp_path / "a.png").unlink()
    (tmp_path / "a.png").symlink_to(tmp_path / "nowhere.png")
    refuse(tmp_path, "a.png. is a link to .*nowhere.png., which does not exist; mend or remove")


@pytest.mark.parametrize("kind", ["eps", "ppm"])
def test_other_formats_under_a_known_name_are_refused(tmp_path: Path, kind: str) -> None:
    save(tmp_path / f"a.{kind}", COLOUR)
    with Image.open(tmp_path / f"a.{kind}") as image:
        assert image.format == kind.upper()  # Pillow would take it, and EPS is a program
    (tmp_path / f"a.{kind}").rename(tmp_path / "a.png")
    refuse(tmp_path, "cannot be read .*cannot identify image file")


@pytest.mark.parametrize("most", [19, 9])
def test_images_of_too_many_pixels_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, most: int
) -> None:
    save(tmp_path / "a.png", GREY)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 20)
    assert read_images(tmp_path).shape == (1, 5, 4, 1)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", most)  # Pillow: a warning, from twice an error
    refuse(tmp_path, rf"^data .*a\.png' must have at most {most} pixels, got more; scale")


def test_folders_of_too_many_pixels_are_refused_before_memory_is_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in "abc":
        save(tmp_path / f"{name}.png", COLOUR)  # 3 images of 60 numbers
    monkeypatch.setattr(images, "MOST_NUMBERS", 180)
    assert read_images(tmp_path).shape == (3, 5, 4, 3)
    monkeypatch.setattr(images, "MOST_NUMBERS", 179)
    monkeypatch.setattr(np, "empty", None)  # what would take the memory is not reached
    refuse(tmp_path, "at most 179 numbers, got 180 in 3 images of 4x5 pixels; scale them down")


@pytest.mark.parametrize("dtype", [np.int32, np.float32])
def test_pixels_of_unknown_range_are_refused(tmp_path: Path, dtype: type) -> None:
    save(tmp_path / "a.tif", GREY.astype(dtype))
    refuse(tmp_path, "8 or 16 bits per channel, got 32-bit pixels")


def test_folders_without_images_are_refused(tmp_path: Path) -> None:
    (tmp_path / "below").mkdir()
    save(tmp_path / "below" / "a.png", GREY)
    refuse(
        tmp_path, r"must be a folder of images \(.*\.png.*\), got none; put them into the folder"
    )
    refuse(tmp_path / "none", "cannot be opened as a folder of images .*No such file")
    refuse(tmp_path / "below" / "a.png", "cannot be opened as a folder of images")


def test_a_pipe_among_images_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    save(tmp_path / "a.png", GREY)
    os.mkfifo(tmp_path / "b.png")
    refuse(tmp_path, "must be an image file, got something else; remove it")
