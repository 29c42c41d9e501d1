"""Architectures of other people, each of whose derivatives is held against float64 autograd."""
