"""Token laws: probability laws of single tokens, one for every token of every row.

Token predictors return such laws. This folder imports `noise` and `core`; every folder above may
import this folder.
"""

from capcheck.laws.categorical import Categorical, DeferredCategorical, certain
from capcheck.laws.chosen import ChosenLaws
from capcheck.laws.inversion import normal_cdf
from capcheck.laws.mixture import LOG_2PI, MixtureOfGaussians, point_mass
from capcheck.laws.side_by_side import SideBySide
from capcheck.laws.tiled_mixture import TiledMixture
from capcheck.laws.token_law import DrawnRows, TokenLaw, log_table, require_scalar_tokens

__all__ = [
    "LOG_2PI",
    "Categorical",
    "ChosenLaws",
    "DeferredCategorical",
    "DrawnRows",
    "MixtureOfGaussians",
    "SideBySide",
    "TiledMixture",
    "TokenLaw",
    "certain",
    "log_table",
    "normal_cdf",
    "point_mass",
    "require_scalar_tokens",
]
