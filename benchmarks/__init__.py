"""aioq measured beside its peers: `python -m benchmarks`, described in docs/performance.md."""
