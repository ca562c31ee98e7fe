"""The server's part of a round of Flower's SecAgg+, in processor seconds: adding the uploads, and taking the masks off.

    python flower_secagg.py CLIENTS SIZE DROPOUT THRESHOLD PARTS

Flower's own workflow runs, between replies that are made here with Flower's own functions. Its work goes by client: a secret
rebuilt, and one mask or one for each neighbour taken off. So with PARTS above one, only every PARTS-th of the survivors and of
the vanished is an owner of secrets, each with the shares and the neighbours of the whole cohort; what this costs beyond the same
stage without any owner is multiplied. Messages are not encoded, sent or decoded. Prints one JSON object.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Iterable
from types import SimpleNamespace
from typing import Any

os.environ["FLWR_TELEMETRY_ENABLED"] = "0"

import flwr.compat.common.recorddict_compat as compat
import numpy as np
from flwr.app import ConfigRecord, RecordDict
from flwr.common import Code, FitRes, Parameters, Status, ndarray_to_bytes, parameters_to_ndarrays
from flwr.common.secure_aggregation.crypto.shamir import create_shares
from flwr.common.secure_aggregation.crypto.symmetric_encryption import generate_shared_key
from flwr.common.secure_aggregation.quantization import dequantize
from flwr.common.secure_aggregation.secaggplus_constants import RECORD_KEY_CONFIGS, Key
from flwr.common.secure_aggregation.secaggplus_utils import pseudo_rand_gen
from flwr.server.workflow import SecAggPlusWorkflow
from flwr.server.workflow.constant import MAIN_CONFIGS_RECORD
from flwr.server.workflow.constant import Key as WorkflowKey
from flwr.server.workflow.secure_aggregation.secaggplus_workflow import WorkflowState
from flwr.supercore.primitives.asymmetric import generate_key_pairs, private_key_to_bytes, public_key_to_bytes
from flwr.supercore.task_identity import TaskIdentity

MODULUS = 2**32
CLIP, LEVELS = 8.0, 2**22
TaskIdentity.task_id = TaskIdentity.run_id = TaskIdentity.node_id = 1  # the workflow asks in whose name it sends


class Grid:
    """Instead of a network: each message is answered by `reply`."""

    def __init__(self, reply: Callable[[int], Any]) -> None:
        self._reply = reply

    def send_and_receive(self, messages: Iterable[Any], timeout: float | None = None) -> list[Any]:
        nodes = [message.metadata.dst_node_id for message in messages]
        return [
            SimpleNamespace(has_error=lambda: False, metadata=SimpleNamespace(src_node_id=node), content=self._reply(node))
            for node in nodes
        ]


class Cohort:
    """Clients 1 to n, of whom some vanish before their upload, and the owners among them."""

    def __init__(self, clients: int, size: int, dropout: float, threshold: int, parts: int) -> None:
        self.size, self.threshold, self.parts = size, threshold, parts
        self.nodes = set(range(1, clients + 1))
        gone = set(range(1, 1 + round(clients * dropout)))
        self.alive = self.nodes - gone
        self.own_alive, self.own_gone = sorted(self.alive)[::parts], sorted(gone)[::parts]
        self.keys = {node: generate_key_pairs() for node in self.nodes}
        self.seeds = {node: os.urandom(32) for node in self.own_alive}
        secrets = self.seeds | {node: private_key_to_bytes(self.keys[node][0]) for node in self.own_gone}
        self.shares = {node: create_shares(secret, threshold, clients) for node, secret in secrets.items()}
        self.vector = np.random.default_rng(1).integers(0, LEVELS, size)

    def masked(self) -> list[np.ndarray]:
        """What the uploads of the owners amount to, with everyone's masks for those who vanished; of weight one in all."""
        total, shape = [np.array([LEVELS]), self.vector.copy()], [(1,), (self.size,)]
        for seed in self.seeds.values():
            for part, mask in zip(total, pseudo_rand_gen(seed, MODULUS, shape), strict=True):
                part += mask
        for gone in self.own_gone:
            for other in self.nodes - {gone}:
                secret = generate_shared_key(self.keys[gone][0], self.keys[other][1])
                for part, mask in zip(total, pseudo_rand_gen(secret, MODULUS, shape), strict=True):
                    part += -mask if gone > other else mask
        return [part % MODULUS for part in total]

    def state(self, owners: Iterable[int]) -> WorkflowState:
        everyone = {node: set(self.nodes) for node in self.nodes}
        publics = {node: [public_key_to_bytes(pair[1])] * 2 for node, pair in self.keys.items()}
        return WorkflowState(
            sampled_node_ids=set(owners),
            active_node_ids=set(self.alive),
            threshold=self.threshold,
            num_shares=len(self.nodes),
            clipping_range=CLIP,
            quantization_range=LEVELS,
            mod_range=MODULUS,
            max_weight=1.0,
            nid_to_neighbours=everyone,
            nid_to_publickeys=publics,
        )


def unmask(cohort: Cohort, masked: list[np.ndarray], owners: list[int]) -> tuple[float, np.ndarray]:
    """Processor seconds of the stage that takes masks off, and the vector that it gives."""

    def reply(node: int) -> Any:
        record = {Key.NODE_ID_LIST: owners, Key.SHARE_LIST: [cohort.shares[owner][node - 1] for owner in owners]}
        return SimpleNamespace(config_records={RECORD_KEY_CONFIGS: record})

    state, kept = cohort.state(owners), SimpleNamespace(parameters=None)
    state.aggregate_ndarrays = [part.copy() for part in masked]
    state.legacy_results = [(None, kept)]
    strategy = SimpleNamespace(aggregate_fit=lambda *_: (None, {}))
    context = SimpleNamespace(strategy=strategy, state=records())
    begin = time.process_time()
    done = workflow(cohort).unmask_stage(Grid(reply), context, state)
    seconds = time.process_time() - begin
    assert done
    return seconds, parameters_to_ndarrays(kept.parameters)[0]


def collect(cohort: Cohort) -> float:
    """Processor seconds of the stage that adds the uploads, of the owners' uploads."""
    upload = [ndarray_to_bytes(part) for part in (np.array([LEVELS]), cohort.vector)]
    nodes = set(cohort.own_alive)

    def reply(_: int) -> Any:
        content = compat.fitres_to_recorddict(FitRes(Status(Code.OK, ""), Parameters([], "numpy.ndarray"), 1, {}), True)
        content.config_records[RECORD_KEY_CONFIGS] = ConfigRecord({Key.MASKED_PARAMETERS: upload})
        return content

    state = cohort.state(nodes)
    state.active_node_ids = nodes
    state.forward_ciphertexts, state.forward_srcs = {node: [] for node in nodes}, {node: [] for node in nodes}
    state.nid_to_fitins = {node: RecordDict() for node in nodes}
    state.nid_to_proxies = dict.fromkeys(nodes)
    replies = {node: reply(node) for node in nodes}
    begin = time.process_time()
    workflow(cohort).collect_masked_vectors_stage(Grid(replies.__getitem__), SimpleNamespace(state=records()), state)
    return time.process_time() - begin


def records() -> Any:
    return SimpleNamespace(config_records={MAIN_CONFIGS_RECORD: {WorkflowKey.CURRENT_ROUND: 1}}, array_records={})


def workflow(cohort: Cohort) -> SecAggPlusWorkflow:
    return SecAggPlusWorkflow(len(cohort.nodes), cohort.threshold, max_weight=1.0, clipping_range=CLIP, modulus_range=MODULUS)


def main() -> None:
    clients, size, dropout, threshold, parts = (float(word) if "." in word else int(word) for word in sys.argv[1:])
    cohort = Cohort(int(clients), int(size), float(dropout), int(threshold), int(parts))
    owners = [*cohort.own_alive, *cohort.own_gone]
    fixed, _ = unmask(cohort, cohort.masked(), [])
    seconds, vector = unmask(cohort, cohort.masked(), owners)
    # Flower takes off what the cohort's other survivors would have added to the sum to centre it.
    expected = dequantize([cohort.vector], CLIP, LEVELS)[0] - (len(cohort.alive) - 1) * CLIP
    unmasking, adding = fixed + parts * (seconds - fixed), parts * collect(cohort)
    values = {"unmask_cpu_s": unmasking, "add_cpu_s": adding, "server_cpu_s": unmasking + adding, "parts": parts}
    print(json.dumps(values | {"exact": bool(np.allclose(vector, expected))}))


if __name__ == "__main__":
    main()
