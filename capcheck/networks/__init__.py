"""Networks: the arguments and answers of each family's network, and the best network there is.

`signatures` says what is shown and returned, `oracles` holds closed forms, `perturbed` and
`rounded` make errors of a known size. The folder imports `targets` and what lies below; every
folder above may import it.
"""
