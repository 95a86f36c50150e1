"""Laws of sequences of vectors: mixtures of Gaussians with full, diagonal or shared variances.

The folder imports the contract and the tools of `targets`; `from_data` and `built_in` make
such laws.
"""
