"""`python -m qpeft` is the command `qpeft`, for launchers that take a module."""

from qpeft.cli import main

if __name__ == "__main__":
    main()
