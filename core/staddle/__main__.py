"""`python -m staddle`: the command line."""

import sys


def main() -> None:
    """The command line, from its imports on: Ctrl-C is one line at any moment."""
    try:
        from staddle.cli import main as command_line

        command_line()
    except KeyboardInterrupt:
        sys.stderr.write("staddle: interrupted\n")
        sys.exit(130)


if __name__ == "__main__":
    main()
