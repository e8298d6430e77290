"""`python -m aioq` is `aioq`."""

from aioq.cli import main

if __name__ == "__main__":  # the process pool imports this module in its children
    main()
