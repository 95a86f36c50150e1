from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from capcheck.core.errors import InputError
from capcheck.targets.from_data.fitted_categorical import (
    fit_hidden_markov,
    fit_latent_class,
)
from capcheck.targets.from_data.fitted_continuous import (
    fit_diagonal_mixture,
    fit_gaussian_mixture,
)

SIZED = [
    (fit_gaussian_mixture, np.random.default_rng(0).normal(size=(9, 2, 1)), {}),
    (fit_diagonal_mixture, np.random.default_rng(0).normal(size=(9, 2, 1)), {}),
    (fit_latent_class, np.random.default_rng(0).integers(0, 3, (9, 4)), {"vocabulary": 3}),
    (fit_hidden_markov, np.random.default_rng(0).integers(0, 3, (9, 4)), {"vocabulary": 3}),
]


@pytest.mark.parametrize(("fit", "rows", "facts"), SIZED)
def test_sizes_that_cannot_be_are_refused(fit: Any, rows: np.ndarray, facts: Any) -> None:
    for size in (0, -1, 2.0, True, "2"):
        with pytest.raises(InputError, match=f"whole number of at least 1, got {size!r}"):
            fit(rows, size, **facts)
    with pytest.raises(InputError, match="must be between 1 and 4 for 9 rows, got 5; choose"):
        fit(rows, 5, **facts)
    fit(rows, np.int64(4), **facts)  # what the message allows
    with pytest.raises(InputError, match="must be 1 for 3 rows, got 2"):
        fit(rows[:3], 2, **facts)
    fit(rows[:3], 1, **facts)
