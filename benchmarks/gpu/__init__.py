"""What only a GPU can show: `python -m benchmarks.gpu PART...`, described in docs/gpu.md."""
