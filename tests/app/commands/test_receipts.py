"""`manent receipts`."""

from __future__ import annotations

import pytest

from manent.network.trust.identity import Identity
from manent.network.trust.receipts import Receipts
from manent.storage import open_store
from tests.app.program import manent
from tests.network.trust.test_journal import by_hand
from tests.network.trust.test_receipts import COURSE


@pytest.fixture
def site(tmp_path):
    folder = tmp_path / "site"
    identity = Identity.create(folder / "identity.key", "karolinska")
    store = open_store(folder / "site.db")
    for receipt in COURSE:
        Receipts(store, identity).append(receipt)
    store.close()
    return folder


def test_verify_says_what_was_released_under_which_guarantee(site):
    result = manent("receipts", "verify", site)
    assert result.exit_code == 0
    public = Identity.load(site / "identity.key").public_hex
    assert result.stdout.startswith(f"5 receipts, signed by {public}\n\nStudy {'ab' * 32}, summed by SecAgg\n")
    assert (
        "  2 in the sum, which was released, 1 sent, but not in the sum, 1 sent; no sum was released (at most 3 are)\n"
        "  under: epsilon 2.5 against the clients, 2.5 against the public; none against the server; delta 1e-05, "
        "for each client (add_or_remove)\n"
    ) in result.stdout
    assert "  1 in the sum, which was released\n  under: no differential privacy\n" in result.stdout
    assert "attempt" not in result.stdout
    each = manent("receipts", "verify", site, "--each").stdout
    assert "round 1, train 0, attempt 1: in the sum, which was released; 3 of 4 in it; upload cdcdcdcdcdcdcdcd\n" in each
    assert "round 2, train 0, attempt 3: sent; no sum was released; an unknown number of 4 in it" in each


def test_a_receipt_that_is_gone_is_named_with_exit_code_1(site):
    noted = manent("receipts", "verify", site).stdout.split()[-1]
    assert manent("receipts", "verify", site, "--noted", noted).exit_code == 0
    by_hand(site / "site.db", "DELETE FROM logs WHERE log = 'receipts' AND sequence = 2")
    result = manent("receipts", "verify", site)
    assert (result.exit_code, "row 2 is missing" in result.stderr) == (1, True)


def test_exported_receipts_verify_elsewhere(site, tmp_path):
    path, public = tmp_path / "receipts.jsonl", Identity.load(site / "identity.key").public_hex
    path.write_text(manent("receipts", "export", site).stdout)
    result = manent("receipts", "verify", path, "--public", public)
    assert (result.exit_code, result.stdout) == (0, manent("receipts", "verify", site).stdout)
    assert manent("receipts", "verify", path).exit_code == 2
    other = manent("receipts", "verify", path, "--public", "ab" * 32)
    assert (other.exit_code, "not signed by the key" in other.stderr) == (1, True)
    path.write_text(path.read_text().replace('"cohort":4', '"cohort":5', 1))
    assert manent("receipts", "verify", path, "--public", public).exit_code == 1


def test_no_site_is_made_by_looking_for_one(tmp_path):
    for where in (tmp_path, tmp_path / "none"):
        assert manent("receipts", "verify", where).exit_code == 2
        assert manent("receipts", "export", where).exit_code == 2
    assert list(tmp_path.iterdir()) == []
