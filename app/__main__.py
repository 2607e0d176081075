"""`crossvit`, and `python -m app`."""

import sys

from app.machine.signals import outside


def main() -> None:
    """Run the command line."""
    if sys.argv[1:2] == ["serve"]:
        outside.take()  # before the imports, which take time
    from app.cli import main as command

    command(prog_name="crossvit")


if __name__ == "__main__":
    main()
