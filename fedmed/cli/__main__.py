"""``python -m fedmed.cli``: as the command ``fedmed``."""

from fedmed.cli import main

main()
