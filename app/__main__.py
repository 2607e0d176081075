"""`crossvit`, and `python -m app`."""

import sys

from app.machine.signals import outside


def main() -> None:
    """Run the command line."""
    if sys.argv[1:2] == ["serve"]:
        outside.take()  # before the imports, which take time
    from app.cli import main as commands
    from model.command_line import run_command

    sys.exit(run_command(commands, program="crossvit"))


if __name__ == "__main__":
    main()
