"""`python -m edgekd` is the `edgekd` command."""

from edgekd.cli.app import main

if __name__ == "__main__":
    main()
