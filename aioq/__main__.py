"""`python -m aioq` is `aioq`."""

from aioq.cli import main

main()
