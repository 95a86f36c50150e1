"""`python -m capcheck`."""

from capcheck.cli.app import main

main()
