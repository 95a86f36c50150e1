"""`python -m capcheck`."""

from capcheck.cli import main

main()
