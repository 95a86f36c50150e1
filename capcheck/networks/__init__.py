"""Networks: the arguments and answers of each family's network, and its oracle.

`signatures` defines arguments, answers and oracles, `oracles` holds closed forms for them, and
`perturbed` and `rounded` add errors of a known size. This folder may import `targets` and every
folder below; every folder above may import it.
"""
