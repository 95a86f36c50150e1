"""Laws of sequences of token ids: mixtures, Markov chains, hidden Markov models and tables.

The folder imports the contract and the tools of `targets`; `from_data` and `built_in` make
such laws.
"""
