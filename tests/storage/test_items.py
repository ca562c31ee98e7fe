"""Documents by prefix in one look are those that `keys` and `get` find one by one."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from manent.storage import MemoryStore, open_store

KEYS = st.text(st.sampled_from("ab/\uffff"), min_size=1, max_size=4)


@pytest.fixture(scope="module", params=["memory", "sqlite"])
def store(request, tmp_path_factory):
    made = MemoryStore() if request.param == "memory" else open_store(tmp_path_factory.mktemp("items") / "store.db")
    yield made
    made.close()


@given(st.dictionaries(KEYS, st.binary(max_size=5), max_size=5), KEYS)
def test_items_are_keys_and_documents(store, documents, prefix):
    with store.transaction() as transaction:
        for key, document in documents.items():
            transaction.put(key, document)
        assert transaction.items(prefix) == [(key, transaction.get(key)) for key in transaction.keys(prefix)]
        assert dict(transaction.items("")) == {key: transaction.get(key) for key in transaction.keys("")}
