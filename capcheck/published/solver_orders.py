"""Orders of convergence of solvers of the probability flow.

Song, Meng & Ermon 2021 (DDIM), https://arxiv.org/abs/2010.02502: DDIM is Euler's rule, of order 1.
Karras et al. 2022, https://arxiv.org/abs/2206.00364, algorithm 1: Heun's rule is of order 2. Lu et
al. 2022, "DPM-Solver++", https://arxiv.org/abs/2211.01095, algorithm 2: 2M is of order 2, in steps
of ln(alpha / sigma).

capcheck measures W2 between two normal numbers of correlation 1/2 and the law of `diffusion`, which
is exact, at rising numbers of steps k. The order is the slope of -ln W2 against ln k. It is asked
to be within 0.2 of the published one, as k is finite.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator
from typing import Any

from capcheck.api import check
from capcheck.published.claim import Claim
from capcheck.targets import from_spec

__all__ = ["claims"]

SOURCE = "solver-orders"
STEPS = (64, 128, 256)
WITHIN = 0.2
SOLVERS: tuple[tuple[str, str, str, dict[str, Any]], ...] = (
    ("Song et al. 2021", "1", "DDIM", {"solver": "ddim"}),
    ("Karras et al. 2022", "2", "Heun", {"solver": "heun"}),
    ("Lu et al. 2022", "2", "DPM-Solver++(2M)", {"solver": "dpm_solver", "grid": "log_snr"}),
)


def claims() -> Iterator[Claim]:
    """The order of each solver on both noise paths."""
    for place, printed, solver, options in SOLVERS:
        for path in ("cosine", "linear"):
            yield Claim(
                source=SOURCE,
                place=place,
                quantity=f"order of {solver}, {path} path",
                printed=printed,
                by="check('diffusion')",
                value=order(**options, path=path),
                within=WITHIN,
            )


def order(**options: Any) -> float:
    """The order of convergence of W2 in the number of steps."""
    found = check(
        "diffusion",
        from_spec("gaussian:equicorrelated,tokens=2,rho=0.5"),
        options=options,
        lengths=[2],
        steps=STEPS,
        divergences="wasserstein",
        samples=200,
        device="cpu",
    )
    distances = []
    for cell in found.cells:
        squared = cell.estimates["wasserstein"]
        assert squared.kind == "exact", squared
        assert squared.value is not None
        distances.append(0.5 * math.log(squared.value))
    return -statistics.linear_regression([math.log(k) for k in STEPS], distances).slope
