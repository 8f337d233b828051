"""`python -m staddle`: the command line."""

from staddle.cli import main

if __name__ == "__main__":
    main()
