from __future__ import annotations

import numpy as np
import pytest

from capcheck.procedures.levels import resampled


def test_a_list_of_levels_is_taken_as_it_is_or_interpolated() -> None:
    levels = (1, 0.7, 0.3, 0)
    assert resampled(levels, 3) == [1, 0.7, 0.3, 0]
    assert resampled(levels, 1) == [1, 0]
    for k in (2, 5, 12):
        expected = np.interp(3 * np.arange(k + 1) / k, np.arange(4), levels)
        assert resampled(levels, k) == pytest.approx(expected.tolist())
