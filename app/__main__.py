"""`python -m app` is `crossvit`."""

from app.cli import main

if __name__ == "__main__":
    main(prog_name="crossvit")
