"""Known distributions and their exact conditionals."""

from capcheck.targets.empirical import from_samples
from capcheck.targets.product_mixture import ProductMixture
from capcheck.targets.specs import from_spec
from capcheck.targets.target import HeldOut, Picture, Provenance, Target

__all__ = [
    "HeldOut",
    "Picture",
    "ProductMixture",
    "Provenance",
    "Target",
    "from_samples",
    "from_spec",
]
