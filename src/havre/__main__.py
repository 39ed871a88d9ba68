"""`python -m havre` is the `havre` command."""

from havre.cli import main

main()
