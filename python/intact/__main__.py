"""`python -m intact` is the command `intact`."""

from intact.cli import main

main()
