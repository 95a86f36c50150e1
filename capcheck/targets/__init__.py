"""Known distributions and their exact conditionals."""

from capcheck.targets.empirical import from_samples
from capcheck.targets.product_mixture import ProductMixture
from capcheck.targets.specs import from_spec
from capcheck.targets.target import HeldOut, Provenance, Target

__all__ = ["HeldOut", "ProductMixture", "Provenance", "Target", "from_samples", "from_spec"]
