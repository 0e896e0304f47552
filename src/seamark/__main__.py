"""`python -m seamark` is the command line."""

from seamark.edges.cli.main import run

run()
