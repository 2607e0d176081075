"""`python -m app` is `crossvit`."""

from app.cli import main

main(prog_name="crossvit")
