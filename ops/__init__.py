"""Tools around the project: set-up, launching, checks, benchmarks."""
