"""`python -m havre` is the `havre` command."""

from havre.cli import main

main(prog_name="havre")
