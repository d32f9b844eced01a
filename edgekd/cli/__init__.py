"""The command line."""

from edgekd.cli.app import main as main
