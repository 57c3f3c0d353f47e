"""Pictures hold the pixels that they were given."""

import base64
import io

import numpy as np
import pytest
import torch
from PIL import Image

from fmtutorial.images.pictures import encode, show_pixels, tile


def test_tile_by_hand():
    """Five images of 1×2 in rows of three, two pixels apart: 4 × 10, the last place is black."""
    images = torch.arange(1, 11, dtype=torch.uint8).reshape(5, 1, 2)
    o = 0
    assert tile(images, 3).tolist() == [
        [1, 2, o, o, 3, 4, o, o, 5, 6],
        [o] * 10,
        [o] * 10,
        [7, 8, o, o, 9, 10, o, o, o, o],
    ]
    assert tile(images[:2], 1, gap=0).tolist() == [[1, 2], [3, 4]]
    assert tile(images[:1], 2, gap=1).tolist() == [[1, 2, o, o, o]]
    assert tile(images, 3).dtype == torch.uint8


@pytest.mark.parametrize("number", [1, 3])
def test_pixels_are_shown_as_they_are(number, displayed):
    """One image as a PNG; several as frames of a GIF, in 32 levels of grey."""
    frames = torch.randint(0, 256, (number, 4, 5), dtype=torch.uint8)
    frames[0, 0, :2] = torch.tensor([0, 255])  # black and white stay what they are
    show_pixels(frames, "digits", "Grey squares at random.", zoom=3, pause=70)
    (((bundle,), options),) = displayed
    kind = "image/png" if number == 1 else "image/gif"
    assert options["metadata"][kind] == {"alt": "Grey squares at random.", "width": 15}
    assert options["metadata"]["scrapbook"]["name"] == "digits"
    picture = Image.open(io.BytesIO(base64.b64decode(bundle[kind])))
    assert picture.size == (15, 12) and getattr(picture, "n_frames", 1) == number
    for i, frame in enumerate(frames):
        picture.seek(i)
        shown = np.asarray(picture.convert("L"))
        off = np.abs(shown - np.kron(frame.numpy(), np.ones((3, 3))))
        # 256 / 32: a level stands for eight grey values
        assert off.max() < (8 if number > 1 else 1)
        assert i > 0 or (off[:3, :6] == 0).all()
        if number > 1:
            assert picture.info["duration"] == (2000 if i == number - 1 else 70)
            assert picture.info["loop"] == 0


def test_pixels_without_alternative_text_are_refused(displayed):
    with pytest.raises(ValueError, match="alt is empty"):
        show_pixels(torch.zeros(1, 2, 2, dtype=torch.uint8), "digits", " ")
    assert displayed == []


def test_colour_is_tiled_like_grey():
    """Each channel by itself."""
    images = torch.randint(0, 256, (5, 3, 4, 6), dtype=torch.uint8)
    sheet = tile(images, 2, gap=1)
    assert sheet.shape == (3, 3 * 5 - 1, 2 * 7 - 1)
    assert torch.equal(sheet, torch.stack([tile(images[:, c], 2, gap=1) for c in range(3)]))


def test_colour_is_encoded_as_it_is(displayed):
    """A picture to the last bit; a film in the 256 best colours of each frame."""
    frames = torch.zeros(3, 3, 16, 32, dtype=torch.uint8)
    frames[0] = torch.randint(0, 256, (3, 16, 32))
    frames[1, 0], frames[1, 2] = 255, torch.arange(16)[:, None] * 17  # 16 colours
    frames[2] = torch.tensor([10, 200, 30])[:, None, None]
    kind, content = encode(frames[:1])
    with Image.open(io.BytesIO(content)) as picture:
        assert (kind, picture.mode) == ("image/png", "RGB")
        assert np.array_equal(np.asarray(picture), frames[0].movedim(0, -1).numpy())
    few = frames[0] // 16 * 16
    few[1] = few[2] = few[0] % 32  # 16 colours
    small = encode(few[None])[1]
    with Image.open(io.BytesIO(small)) as picture:
        assert picture.mode == "P" and len(small) < len(content) / 3
        assert np.array_equal(np.asarray(picture.convert("RGB")), few.movedim(0, -1).numpy())
    film_frames = frames[[1, 0, 2], :, :, :16]
    kind, content = encode(film_frames)
    with Image.open(io.BytesIO(content)) as film:
        assert kind == "image/gif" and film.n_frames == 3
        for i, (frame, most) in enumerate(zip(film_frames, (0, 60, 0), strict=True)):
            film.seek(i)
            shown = np.asarray(film.convert("RGB")).astype(int)
            off = np.abs(shown - frame.movedim(0, -1).numpy())
            assert off.max() <= most and off.mean() <= most / 10
    show_pixels(frames[:1], "colour", "Colours at random.", zoom=2)
    (((bundle,), options),) = displayed
    assert options["metadata"]["image/png"]["width"] == 64
    with Image.open(io.BytesIO(base64.b64decode(bundle["image/png"]))) as picture:
        twice = np.kron(frames[0].movedim(0, -1).numpy(), np.ones((2, 2, 1), np.uint8))
        assert np.array_equal(np.asarray(picture), twice)


@pytest.mark.parametrize("channels", [1, 2, 4])
def test_other_numbers_of_channels_are_no_picture(channels):
    images = torch.zeros(2, channels, 4, 4, dtype=torch.uint8)
    for use in (lambda x: tile(x, 2), encode):
        with pytest.raises(ValueError, match=r"one channel or three: pass images\[:, 0\]"):
            use(images)


PIXELS = torch.zeros(3, 2, 2, dtype=torch.uint8)


def test_pictures_of_nothing_are_refused(displayed):
    for wrong in (PIXELS[:0], PIXELS[:, :0], PIXELS[0], PIXELS[None, None]):
        for use in (lambda x: tile(x, 2), encode, lambda x: show_pixels(x, "digits", "None.")):
            with pytest.raises(ValueError, match=r"pass \(N, height, width\), N ≥ 1"):
                use(wrong)
    for wrong in (PIXELS.float(), PIXELS.numpy(), None):
        for use in (lambda x: tile(x, 2), encode, lambda x: show_pixels(x, "digits", "None.")):
            with pytest.raises(TypeError, match="pass torch.uint8"):
                use(wrong)
    for columns in (0, -1, 2.0, True):
        with pytest.raises((TypeError, ValueError), match="columns is"):
            tile(PIXELS, columns)
    assert displayed == []
