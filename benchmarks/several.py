"""Starts several copies of a worker, for libraries without such a command: `several N ARGUMENTS AFTER python`."""

import subprocess
import sys


def main(count: int, command: list[str]) -> None:
    """Start the copies and wait for them; the caller ends them as one process group."""
    copies = [subprocess.Popen([sys.executable, *command]) for _ in range(count)]
    for copy in copies:
        copy.wait()


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2:])
