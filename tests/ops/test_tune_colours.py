"""The pictures and lines that help to choose colour ranges."""

import cv2
import numpy as np
import pytest

from ops.tune_colours import main, patch_range, side_by_side, summary

GREY = np.random.default_rng(0).integers(110, 140, (96, 96, 3), np.uint8)


@pytest.fixture
def green_patch():
    image = GREY.copy()
    image[10:20, 30:50] = (13, 150, 30)
    return image


def test_the_pixels_of_each_colour_are_counted(green_patch):
    assert summary(green_patch) == "0 px red, 200 px green, 0 px blue"


def test_a_useless_picture_is_said_to_be_one():
    assert summary(GREY // 20) == "useless picture: black"


def test_each_mask_keeps_only_its_colour(green_patch):
    row = side_by_side(green_patch)
    frame, red, green, blue = np.split(row, 4, axis=1)
    assert (frame[::4, ::4] == green_patch).all()
    assert not red.any()
    assert not blue.any()
    assert (green.any(axis=2)[::4, ::4].sum()) == 200


def test_the_range_of_a_patch_is_what_the_mask_would_need(green_patch):
    assert patch_range(green_patch, (30, 10, 20, 10)).startswith("hue 64-64")


def test_masks_are_written_beside_the_frames(tmp_path, green_patch, capsys):
    frame = tmp_path / "frame.png"
    cv2.imwrite(str(frame), cv2.cvtColor(green_patch, cv2.COLOR_RGB2BGR))
    assert main([str(frame), "--out", str(tmp_path / "masks")]) == 0
    assert cv2.imread(str(tmp_path / "masks" / "frame_masks.png")).shape == (384, 4 * 384, 3)
    assert "200 px green" in capsys.readouterr().out


def test_a_range_that_is_tried_replaces_the_colours_own(tmp_path, green_patch, capsys):
    frame = tmp_path / "frame.png"
    cv2.imwrite(str(frame), cv2.cvtColor(green_patch, cv2.COLOR_RGB2BGR))
    main([str(frame), "--out", str(tmp_path), "--try", "green=0,255,255:1,255,255"])
    assert "0 px green" in capsys.readouterr().out


@pytest.mark.parametrize("text", ["green", "green=1,2:3,4", "pink=0,0,0:1,1,1"])
def test_a_malformed_range_is_a_usage_error(text):
    with pytest.raises(SystemExit) as stop:
        main(["--try", text])
    assert stop.value.code == 2


def test_a_file_that_is_no_picture_is_refused(tmp_path, capsys):
    (tmp_path / "notes.png").write_text("no picture")
    assert main([str(tmp_path / "notes.png"), "--out", str(tmp_path / "masks")]) == 1
    assert "not a picture" in capsys.readouterr().err
