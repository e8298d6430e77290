"""`aioq demo` (being built)."""


def run_demo() -> int:
    """Run the demo and return the exit code."""
    return 0
