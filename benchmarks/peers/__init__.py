"""One adapter a library, each imported in that library's own environment only: see `benchmarks.contract`."""
