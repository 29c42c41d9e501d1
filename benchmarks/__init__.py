"""Benchmarks: one harness, one file per question; each verifies before it times."""
