"""Pictures for people, by their pixels."""

import numpy as np

from common.pictures import difference


def test_a_difference_is_white_where_equal_red_where_brighter_blue_where_darker():
    before = np.array([[100, 100, 100, 100]], dtype=np.uint8)
    after = np.array([[100, 132, 164, 36]], dtype=np.uint8)
    same, half, full, darker = difference(before, after, full=64)[0].astype(int)
    assert (same == 255).all()
    assert full[0] > full[2] and darker[2] > darker[0]
    assert np.abs(half - (255 + full) / 2).max() <= 1
    assert np.array_equal(difference(before, np.full_like(before, 255))[0, 0].astype(int), full)  # more is no redder
