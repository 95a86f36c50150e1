"""Facts from outside the code: closed forms, quadrature and brute force, in numpy and scipy."""
