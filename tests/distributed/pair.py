"""Whatever needs two processes of torchrun, by one pair of them: to start them takes longest."""

import sys

import torch

from tests.distributed import by_hand, faults

if __name__ == "__main__":
    torch.save((by_hand.results(), faults.results()), f"{sys.argv[1]}/{faults.RANK}.pt")
