"""The plans of the studies that a server knows. They are made from the bundles; no code of a study is run."""

from __future__ import annotations

import threading

from manent.core.errors import InvalidInput
from manent.core.study import Study
from manent.network.server.documents import StudyRecord
from manent.network.wire.bundle import Bundle
from manent.network.wire.sums import check_network
from manent.privacy.check import Plan, resolve
from manent.rounds.declared import Sites, rebuild, schema_of
from manent.storage.blobs import Blobs


def plan_of(bundle: Bundle, clients: int) -> Plan:
    """The plan of a bundle for so many sites. Raises InvalidInput or Refused if there is none."""
    study: Study = rebuild(bundle.study)
    sites = Sites(tuple(f"site {index}" for index in range(clients)), schema_of(bundle.schema))
    plan = resolve(study, sites)
    check_network(plan)
    return plan


class Plans:
    """Plans by study. Each is made once in a process."""

    def __init__(self, blobs: Blobs) -> None:
        self._blobs = blobs
        self._found: dict[tuple[str, int], Plan] = {}
        self._lock = threading.Lock()

    def bundle(self, study: StudyRecord) -> Bundle:
        """The bundle of a study."""
        return Bundle.read(b"".join(self._blobs.read(study.bundle)))

    def plan(self, study: StudyRecord) -> Plan:
        """The plan of a study. Raises InvalidInput for a study that still waits for its sites."""
        if not study.clients:
            raise InvalidInput(f"Study {study.hash[:16]} waits for {study.needed} sites; it has no plan yet.")
        with self._lock:
            key = study.hash, study.clients
            if key not in self._found:
                self._found[key] = plan_of(self.bundle(study), study.clients)
            return self._found[key]
