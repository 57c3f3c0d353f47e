"""A folder of pictures as pixels, and every folder that is none as one clear line."""

import os
import re
import warnings

import numpy as np
import pytest
import torch
from PIL import Image

from fmtutorial.images import folders as module
from fmtutorial.images.folders import held_out, read_folder
from fmtutorial.images.pictures import squared


def colours(seed, height=6, width=5, channels=3):
    shape = (height, width, channels) if channels > 1 else (height, width)
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def save(path, pixels, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, **options)


def fill(folder, n=12, start=0, **options):
    for i in range(start, start + n):
        save(folder / f"{i:02d}.png", colours(i, **options))


def stacked(seeds, **options):
    made = torch.from_numpy(np.stack([colours(i, **options) for i in seeds]))
    return made.movedim(-1, 1) if made.ndim == 4 else made


def line(folder, *words, **options):
    """The one line with which a folder is refused, which holds these words."""
    with pytest.raises((ValueError, OSError)) as found:
        read_folder(folder, **options)
    text = str(found.value)
    assert "\n" not in text and len(text) < 800
    for word in words:
        assert str(word) in text, text
    return text


# Folders as they should be.


@pytest.mark.parametrize("channels", [1, 3])
def test_a_flat_folder_has_no_classes(tmp_path, channels):
    """Every tenth picture is held out, the others are the training, in the order of the names."""
    fill(tmp_path, 21, channels=channels)
    seen, unseen = (read_folder(tmp_path, split) for split in ("train", "test"))
    assert torch.equal(unseen.images, stacked([9, 19], channels=channels))
    rest = [i for i in range(21) if i not in (9, 19)]
    assert torch.equal(seen.images, stacked(rest, channels=channels))
    assert seen.images.dtype == torch.uint8 and seen.labels.dtype == torch.int64
    assert seen.labels.tolist() == [0] * 19 and unseen.labels.tolist() == [0, 0]


def test_sub_folders_are_classes_by_name(tmp_path):
    fill(tmp_path / "b", 6)
    fill(tmp_path / "a", 3, 10)
    fill(tmp_path / "c" / "deeper", 3, 20)
    (tmp_path / "empty").mkdir()
    seen, unseen = (read_folder(tmp_path, split) for split in ("train", "test"))
    assert seen.labels.tolist() == [0] * 3 + [1] * 6 + [2] * 2 and unseen.labels.tolist() == [2]
    assert torch.equal(seen.images, stacked([10, 11, 12, *range(6), 21, 22]))
    assert torch.equal(unseen.images, stacked([20]))


def test_train_and_test_inside_are_the_splits(tmp_path):
    for split, n in (("train", 3), ("test", 2)):
        for k, name in enumerate("ab"):
            fill(tmp_path / split / name, n, 10 * k + 30 * (split == "test"))
    fill(tmp_path / "train" / "c", 2, 50)
    seen, unseen = (read_folder(tmp_path, split) for split in ("train", "test"))
    assert seen.labels.tolist() == [0] * 3 + [1] * 3 + [2] * 2
    assert unseen.labels.tolist() == [0, 0, 1, 1]
    assert torch.equal(unseen.images, stacked([30, 31, 40, 41]))
    fill(tmp_path / "test" / "d", 1, 60)
    line(tmp_path, "has the class 'd'", tmp_path / "train")


def test_one_of_train_and_test_is_a_class(tmp_path):
    fill(tmp_path / "train", 12)
    assert len(read_folder(tmp_path).images) == 11


@pytest.mark.parametrize(
    "labels, out",
    [
        ([0] * 25, [9, 19]),
        ([0] * 5, [4]),
        ([0] * 9 + [1] + [0] * 10, [19]),
        ([0, 0, 1], []),
        ([0], []),
        ([], []),
    ],
    ids=lambda x: str(len(x)),
)
def test_what_is_held_out(labels, out):
    """Of ten the tenth, of fewer the last; the only one of a class is not."""
    labels = torch.tensor(labels, dtype=torch.int64)
    if out:
        assert held_out(labels, "test") == out
        assert held_out(labels, "train") == [i for i in range(len(labels)) if i not in out]
    else:
        with pytest.raises(ValueError, match=f"of {len(labels)} images none can be held out"):
            held_out(labels, "train")


def test_sizes_are_made_one(tmp_path):
    """The centre, as a square; a picture whose centre has that size is not touched."""
    wide, high, exact = colours(1, 8, 12), colours(2, 30, 10), colours(3, 4, 6)
    for name, pixels in (("a.png", wide), ("b.png", high), ("c.png", exact), ("d.png", exact)):
        save(tmp_path / name, pixels)
    text = line(tmp_path, "several sizes (width×height)", "2 of 6×4", "1 of 12×8", "--size 4")
    assert "10×30" in text
    found = read_folder(tmp_path, size=4).images
    assert found.shape == (3, 3, 4, 4)
    assert torch.equal(found[2], torch.from_numpy(exact).movedim(-1, 0)[:, :, 1:5])
    middle = torch.from_numpy(wide).movedim(-1, 0)[None, :, :, 2:10]
    assert torch.equal(found[:1], squared(middle, 4))


def test_squares_by_hand():
    """A smooth picture of half the size is the mean of each two by two, within a level."""
    ramp = (torch.arange(20)[:, None] * 4 + torch.arange(32) * 3).byte()[None]
    found = squared(ramp, 10)
    expected = ramp[0, :, 6:26].float().reshape(10, 2, 10, 2).mean(dim=(1, 3))
    # away from the edges, where cubic weights meet the border
    assert (found[0].float() - expected)[2:-2, 2:-2].abs().max() <= 1
    assert squared(ramp[:, :1, :1], 3).tolist() == [[[0] * 3] * 3]
    with pytest.raises(ValueError, match=r"pass \(N, height, width\) or"):
        squared(ramp[0], 4)


# Pictures of every kind.


def test_kinds_of_pictures_become_eight_bits(tmp_path):
    """Colour in one makes all colour; what is transparent is on white."""
    grey = np.array([[0, 100], [200, 255]], np.uint8)
    deep = grey.astype(np.uint16) * 257
    clear = np.dstack([grey, grey, grey, [[0, 255], [255, 0]]]).astype(np.uint8)
    half = np.dstack([grey, np.full_like(grey, 128)])
    save(tmp_path / "a grey.png", grey)
    save(tmp_path / "b deep.png", deep)
    save(tmp_path / "c deep.tif", deep)
    Image.fromarray(half, "LA").save(tmp_path / "d half.png")
    Image.fromarray(grey).point(lambda v: 255 * (v > 150)).convert("1").save(tmp_path / "e bit.png")
    greys = read_folder(tmp_path)
    assert greys.images.shape == (4, 2, 2)
    given = torch.from_numpy(grey)
    assert all(torch.equal(image, given) for image in greys.images[:3])
    blended = (given.float() * 128 + 255 * 127) / 255
    assert (greys.images[3].float() - blended).abs().max() <= 1
    assert read_folder(tmp_path, "test").images.tolist() == [[[0, 0], [255, 255]]]

    save(tmp_path / "f clear.png", clear)
    palette = Image.fromarray(clear[..., :3]).quantize(8)
    palette.save(tmp_path / "g palette.png")
    palette.save(tmp_path / "h hole.gif", transparency=palette.getpixel((0, 0)))
    Image.fromarray(clear[..., :3]).convert("CMYK").save(tmp_path / "i cmyk.tif")
    save(tmp_path / "j.png", grey), save(tmp_path / "k.png", grey)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        all_of_them = read_folder(tmp_path).images
    assert all_of_them.shape == (10, 3, 2, 2)
    assert torch.equal(all_of_them[0], given.expand(3, 2, 2))
    by_name = dict(zip("abcdefghik", all_of_them, strict=True))
    assert by_name["f"][0].tolist() == [[255, 100], [200, 255]]
    assert torch.equal(by_name["g"], given.expand(3, 2, 2))
    assert by_name["h"][0].tolist() == [[255, 100], [200, 255]]
    assert torch.equal(by_name["i"], given.expand(3, 2, 2))


def test_cameras_are_turned_back(tmp_path):
    pixels = colours(1, 4, 6)
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90° clockwise
    Image.fromarray(pixels).save(tmp_path / "a.png", exif=exif)
    Image.fromarray(np.rot90(pixels, -1).copy()).save(tmp_path / "b.png")
    found = read_folder(tmp_path).images
    assert found.shape == (1, 3, 6, 4)
    assert torch.equal(found, read_folder(tmp_path, "test").images)


def test_pixels_of_32_bits_are_refused(tmp_path):
    fill(tmp_path, 2, channels=1)
    Image.fromarray(np.full((6, 5), 0.5, np.float32)).save(tmp_path / "0.tif")
    line(tmp_path, "1 of 2 pictures", "0.tif", "32 bits")


def test_a_film_gives_its_first_frame(tmp_path):
    first, second = (Image.fromarray(colours(i, channels=1)) for i in range(2))
    for name in "ab":
        first.save(tmp_path / f"{name}.gif", save_all=True, append_images=[second])
    expected = stacked([0], channels=1)[:, None].expand(1, 3, 6, 5)  # a palette is colour
    assert torch.equal(read_folder(tmp_path).images, expected)


def test_names_may_be_anything(tmp_path):
    names = ["é ü 数.PNG", " .png", "a\nb.jpg.png", "%s {0} $x.png", "-rf.png", "x" * 200 + ".png"]
    if os.name == "posix":
        names.append(os.fsdecode(b"\xff.png"))
    for i, name in enumerate(names):
        save(tmp_path / "my class" / name, colours(i))
    assert len(read_folder(tmp_path).images) == len(names) - 1


def test_hidden_files_are_not_there(tmp_path):
    fill(tmp_path, 3)
    fill(tmp_path / ".git", 3)
    (tmp_path / ".DS_Store").write_bytes(b"?")
    (tmp_path / "._00.png").write_bytes(b"?")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(read_folder(tmp_path).images) == 2


def test_other_files_are_left_out_with_a_word(tmp_path):
    fill(tmp_path, 3)
    for name in ("notes.txt", "labels", "z.csv"):
        (tmp_path / name).write_text("?")
    with pytest.warns(UserWarning, match="left out, .*labels and 2 more; pictures end"):
        assert len(read_folder(tmp_path).images) == 2


# Folders that are none.


@pytest.mark.filterwarnings("ignore:left out")
def test_folders_without_pictures_are_refused(tmp_path):
    line(tmp_path / "none", "there is no folder", tmp_path / "none")
    line(tmp_path, "there are no pictures in", ".jpg")
    (tmp_path / "readme.txt").write_text("?")
    line(tmp_path, "there are no pictures in")
    (tmp_path / "train").mkdir(), (tmp_path / "test").mkdir()
    line(tmp_path, "there are no pictures in")
    for size, error in ((0, ValueError), (2.5, TypeError)):
        with pytest.raises(error, match="size is"):
            read_folder(tmp_path, size=size)
    with pytest.raises(ValueError, match='unknown split "val"'):
        read_folder(tmp_path, "val")


def test_one_picture_is_too_few(tmp_path):
    fill(tmp_path, 1)
    line(tmp_path, "of 1 images none can be held out; two of a class are needed")


def test_pictures_beside_classes_are_refused(tmp_path):
    fill(tmp_path, 2)
    fill(tmp_path / "a", 3)
    line(tmp_path, "holds 2 pictures beside sub-folders with 3", "put all into sub-folders")


def test_broken_pictures_are_counted_and_the_first_named(tmp_path):
    """By their first bytes, or where the pixels end too soon."""
    fill(tmp_path, 5)
    (tmp_path / "04 text.png").write_text("no picture")
    line(tmp_path, "1 of 6 pictures", "first", tmp_path / "04 text.png", "mend or delete")
    (tmp_path / "03 empty.jpg").write_bytes(b"")
    line(tmp_path, "2 of 7 pictures", tmp_path / "03 empty.jpg")
    for path in tmp_path.glob("0? *"):
        path.unlink()
    for name in ("02", "03"):
        save(tmp_path / f"{name}.png", colours(1, 40, 40))
        whole = (tmp_path / f"{name}.png").read_bytes()
        (tmp_path / f"{name}.png").write_bytes(whole[: len(whole) // 2])
    line(tmp_path, "2 of 5 pictures", tmp_path / "02.png", size=4)
    for path in tmp_path.glob("0[23].png"):
        path.unlink()
    save(tmp_path / "02.jpg", colours(1, 90, 90))  # whose end is read with its pixels only
    whole = (tmp_path / "02.jpg").read_bytes()
    (tmp_path / "02.jpg").write_bytes(whole[: len(whole) // 2])
    line(tmp_path, "1 of 3 pictures", tmp_path / "02.jpg", "truncated", size=4)


def test_huge_pictures_are_refused(tmp_path, monkeypatch):
    """By what Pillow takes for a decompression bomb, before a pixel is read."""
    fill(tmp_path, 3)
    save(tmp_path / "bomb.png", np.zeros((300, 300), np.uint8))
    for limit in (50_000, 10_000):  # where Pillow warns, and where it refuses
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
        line(tmp_path, "1 of 4 pictures", "bomb.png", "90000 pixels", "huge")


def test_more_than_the_memory_is_refused(tmp_path, monkeypatch):
    fill(tmp_path, 12)
    take = 12 * 3 * 6 * 5
    monkeypatch.setattr(module, "free_memory", lambda: take)
    read_folder(tmp_path)
    monkeypatch.setattr(module, "free_memory", lambda: take - 1)
    line(tmp_path, "12 images of 3×6×5", f"({take} bytes)", "--size 64")
    assert read_folder(tmp_path, size=2).images.shape == (11, 3, 2, 2)


def test_links_within_the_folder_are_files(tmp_path):
    fill(tmp_path, 3)
    (tmp_path / "link.png").symlink_to(tmp_path / "00.png")
    assert torch.equal(read_folder(tmp_path, "test").images, stacked([0]))
    (tmp_path.parent / f"{tmp_path.name} link").symlink_to(tmp_path)
    assert len(read_folder(tmp_path.parent / f"{tmp_path.name} link").images) == 3


@pytest.mark.parametrize("kind", ["out", "folder", "circle", "itself", "nowhere", "out of a class"])
def test_other_links_are_refused(tmp_path, kind):
    inside = tmp_path / "inside"
    fill(inside / "class", 3)
    fill(tmp_path / "outside", 1)
    link, target, why = {
        "out": (inside / "class" / "x.png", tmp_path / "outside" / "00.png", "out of the folder"),
        "folder": (inside / "other", tmp_path / "outside", "a link to a folder"),
        "circle": (inside / "class" / "x", inside, "a link to a folder"),
        "itself": (inside / "x.png", inside / "x.png", "leads nowhere"),
        "nowhere": (inside / "x.png", inside / "none.png", "leads nowhere"),
        "out of a class": (inside / "class" / "x.txt", "/etc/passwd", "out of the folder"),
    }[kind]
    link.symlink_to(target)
    line(inside, link, why, "remove it")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_folders_that_cannot_be_read_are_refused(tmp_path):
    fill(tmp_path / "a", 3)
    fill(tmp_path / "b", 3)
    (tmp_path / "b").chmod(0)
    with pytest.raises(PermissionError, match=re.escape(str(tmp_path / "b"))):
        read_folder(tmp_path)
