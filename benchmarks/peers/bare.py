"""Federated averaging with nothing but torch: a module, autograd and torch.optim.SGD, in two processes of one thread.

What a person writes who needs no library; the unit of the ratios.
"""

from __future__ import annotations

import sys
from multiprocessing import get_context
from multiprocessing.connection import Connection

import torch
from pace import Pace
from shared import Work, descend, flat, network, put
from torch import Tensor

PROCESSES = 2


def serve(pipe: Connection, work: Work, vector: Tensor, total: Tensor) -> None:
    """One process: trains the clients that it is given, and adds up their vectors."""
    torch.set_num_threads(1)
    facts, model = work.facts, network(work.facts["job"])
    x, y, orders = torch.from_numpy(work.x), torch.from_numpy(work.y), torch.from_numpy(work.orders)
    while True:
        round, positions = pipe.recv()
        total.zero_()
        for position in positions:
            rows = work.rows(int(work.cohorts[round, position]))
            put(model, vector)
            descend(model, x[rows], y[rows], orders[round, position], facts["batch_size"], facts["lr"])
            total += flat(model)
        pipe.send(len(positions))


def main() -> None:
    pace, work = Pace(), Work(sys.argv[1])
    torch.set_num_threads(1)
    vector = torch.from_numpy(work.start).clone().share_memory_()
    totals = [torch.zeros_like(vector).share_memory_() for _ in range(PROCESSES)]
    context, pipes = get_context("fork"), []
    for total in totals:
        ours, theirs = context.Pipe()
        context.Process(target=serve, args=(theirs, work, vector, total), daemon=True).start()
        pipes.append(ours)
    cohort = work.facts["cohort"]
    for round in range(work.facts["rounds"]):
        for number, pipe in enumerate(pipes):
            pipe.send((round, range(number, cohort, PROCESSES)))
        for pipe in pipes:
            pipe.recv()
        torch.add(totals[0], totals[1], out=vector).div_(cohort)
        pace.round_over()
    model = network(work.facts["job"])
    put(model, vector)
    pace.say(accuracy=work.accuracy(model))


if __name__ == "__main__":
    main()
