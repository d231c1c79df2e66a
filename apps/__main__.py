"""`python -m apps` is `workbench`."""

from apps.cli import main

main()
