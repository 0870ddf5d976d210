"""What measures the engine: `python -m benchmarks --help`."""
