"""The local training of many clients in one batched program, at which a GPU is fast.

The weights of k clients are one array [k, p]. A step is `vmap(grad)` over the clients, and one vectorised update. Clients whose
batches are equally long take a step together, so no row is padded and no loss needs a mask. On a CPU this is slower than training
one client after another, because one client's weights stay in the cache; there it serves for comparison.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from manent.core.errors import InvalidInput
from manent.core.examples import Examples
from manent.core.training import LocalSGD, LocalTraining, Trained
from manent.core.vectors import Array
from manent.models.torch.network import Loss, Network
from manent.models.torch.training import pull_of

Alone = Callable[[LocalTraining, Examples], Trained]
Group = tuple[Tensor | slice, Tensor]  # which clients, and their rows [clients, batch]


class Batched:
    """Trains clients on one network, `together` at a time.

    One client after another is trained by `alone` where the network has statistics (BatchNorm), buffers that training changes,
    random layers, or operations that vmap does not know; and where training is private for single examples.
    """

    def __init__(self, network: Network, loss: Loss, together: int, alone: Alone) -> None:
        self.network, self.loss, self.together, self.alone = network, loss, together, alone
        self.able = not network.statistics

    def train(self, works: Sequence[LocalTraining], data: Sequence[Examples]) -> list[Trained]:
        """Each client's training, in order. Raises InvalidInput where the network does not fit the data, or memory runs out."""
        found: dict[int, Trained] = {}
        for alike in _alike(works, data):
            for start in range(0, len(alike), self.together):
                part = alike[start : start + self.together]
                found |= zip(part, self._part([works[i] for i in part], [data[i] for i in part]), strict=True)
        return [found[i] for i in range(len(works))]

    def _part(self, works: list[LocalTraining], data: list[Examples]) -> list[Trained]:
        if self.able and works[0].local.privacy is None:
            try:
                return self._together(works, data)
            except torch.OutOfMemoryError as error:
                raise InvalidInput(
                    f"{len(works)} clients at a time need more memory than the device has; lower TorchModel(..., together=)."
                ) from error
            except (RuntimeError, ValueError, IndexError, TypeError):
                found = [self.alone(*each) for each in zip(works, data, strict=True)]  # raises where the cause is in the data
                self.able = False
                return found
        return [self.alone(*each) for each in zip(works, data, strict=True)]

    def _together(self, works: list[LocalTraining], data: list[Examples]) -> list[Trained]:
        network = self.network
        network.load(works[0].start)
        network.mode(training=True)
        weights = network.tensor(np.stack([work.start for work in works]))
        x, y = (network.tensor(np.concatenate(parts)) for parts in ([d.x for d in data], [d.y for d in data]))
        buffers = {name: buffer.clone() for name, buffer in network.module.named_buffers()}
        step, losses = _Step(network, works), weights.new_zeros(len(works))
        for who, rows in _groups(works, data, network.device):
            gradients, loss = self._gradients(weights[who], buffers, x[rows], y[rows])
            losses[who] += loss
            weights[who] = step.taken(who, weights[who], gradients)
        if any(not torch.equal(buffer, buffers[name]) for name, buffer in network.module.named_buffers()):
            raise RuntimeError("Training changes a buffer, so each client needs its own.")
        if network.kept.changed() is not None:
            raise RuntimeError("Training changes an attribute, so each client needs its own.")
        steps = [len(work.batches) for work in works]
        vectors, means = weights.cpu().numpy(), losses.cpu().numpy() / steps
        each = zip(works, vectors, means, strict=True)
        return [Trained(work.start, np.subtract(vector, work.start, out=vector), float(mean)) for work, vector, mean in each]

    def _gradients(self, weights: Tensor, buffers: dict[str, Tensor], x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """[k, p] and [k], the gradients and the mean losses of k clients' batches x [k, b, ...], y [k, b, ...]."""
        network = self.network
        names = [name for name, p in network.module.named_parameters() if p.requires_grad]
        pieces = weights.split_with_sizes([view.numel() for view in network.views], dim=1)
        shaped = {n: w.view(-1, *v.shape) for n, w, v in zip(names, pieces, network.views, strict=True)}

        def loss(parameters: dict[str, Tensor], x: Tensor, y: Tensor) -> Tensor:
            return self.loss(torch.func.functional_call(network.module, {**parameters, **buffers}, (x,)), y)

        with torch.enable_grad():
            gradients, losses = torch.func.vmap(torch.func.grad_and_value(loss))(shaped, x, y)
        return torch.cat([gradients[name].detach().flatten(1) for name in names], dim=1), losses.detach()


class _Step:
    """The kernel's step for k clients. Learning rates, pulls and the rule's memory have a row for each client."""

    def __init__(self, network: Network, works: list[LocalTraining]) -> None:
        p = len(network.weights)
        self.local: LocalSGD = works[0].local
        self.lr = network.tensor(np.array([[work.lr] for work in works], np.float32))
        self.decay = network.tensor(np.array([[work.local.weight_decay + work.prox] for work in works], np.float32))
        self.decays = bool(self.decay.any())
        pulls = [pull_of(work, p) for work in works]
        self.pull = None
        if any(pull is not None for pull in pulls):
            self.pull = network.tensor(np.stack([np.zeros(p, np.float32) if pull is None else pull for pull in pulls]))
        adam = self.local.optimizer == "adam"
        self.memory = [torch.zeros(len(works), p, device=network.device) for _ in range(2 if adam else bool(self.local.momentum))]
        self.taken_steps = torch.zeros(len(works), 1, device=network.device)

    def taken(self, who: Tensor | slice, weights: Tensor, g: Tensor) -> Tensor:
        """[m, p], the new weights of some clients, from their gradients [m, p]."""
        limit = self.local.max_grad_norm
        if limit is not None:
            norm = torch.linalg.vector_norm(g, dim=1, keepdim=True)
            g = torch.where(norm > limit, g * (limit / norm), g)
        if self.decays:
            g = g + self.decay[who] * weights
        if self.pull is not None:
            g = g + self.pull[who]
        return weights - self.lr[who] * self._direction(who, g)

    def _direction(self, who: Tensor | slice, g: Tensor) -> Tensor:
        if not self.memory:
            return g
        if len(self.memory) == 1:
            self.memory[0][who] = self.local.momentum * self.memory[0][who] + g
            return self.memory[0][who]
        self.taken_steps[who] += 1
        first, second = (1 - torch.pow(beta, self.taken_steps[who].double()).float() for beta in (0.9, 0.999))
        self.memory[0][who] = m = 0.9 * self.memory[0][who] + 0.1 * g
        self.memory[1][who] = v = 0.999 * self.memory[1][who] + 0.001 * g * g
        return (m / first) / ((v / second).sqrt() + 1e-8)


def _alike(works: Sequence[LocalTraining], data: Sequence[Examples]) -> list[list[int]]:
    """Positions of clients, grouped so that those in a group have the same declaration and the same shapes and types of data."""
    kinds: dict[object, list[int]] = {}
    for position, (work, part) in enumerate(zip(works, data, strict=True)):
        shapes = (part.x.shape[1:], part.x.dtype, part.y.shape[1:], part.y.dtype)
        kinds.setdefault((work.local, shapes), []).append(position)
    return list(kinds.values())


def _groups(works: list[LocalTraining], data: list[Examples], device: torch.device) -> Iterator[Group]:
    """For each step in turn, the clients that take it, in groups of equal batch length, and their rows."""
    first = np.concatenate([[0], np.cumsum([len(part) for part in data])])
    for number in range(max(len(work.batches) for work in works)):
        groups: dict[int, list[tuple[int, Array]]] = {}
        for client, work in enumerate(works):
            if number < len(work.batches):
                batch = work.batches[number]
                rows = np.arange(len(data[client]))[batch] if isinstance(batch, slice) else batch
                groups.setdefault(len(rows), []).append((client, first[client] + rows))
        for group in groups.values():
            everyone = len(group) == len(works)
            who = slice(None) if everyone else torch.tensor([client for client, _ in group], device=device)
            yield who, torch.from_numpy(np.stack([rows for _, rows in group])).to(device)
