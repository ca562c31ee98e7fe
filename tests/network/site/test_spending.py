"""A site's own account over a study: set aside before data are touched, spent with the release, and what goes back."""

from __future__ import annotations

import json
import threading
from dataclasses import replace

import pytest

import manent as mn
from manent.accounting import Repeated, epsilon
from manent.core.errors import ProtocolAbort, Refused
from manent.network.server.submitting import stop
from manent.network.site.spending import Account
from manent.network.site.state import Task
from manent.network.site.work import Accepted, SumWork
from manent.network.trust.policy import Policy
from manent.network.trust.receipts import stored
from tests.network.server import test_records
from tests.network.server.test_records import others
from tests.network.trust.test_policy import TEXT
from tests.network.world import World, study_of

ROUNDS, STEPS, DELTA = 3, 2, 1e-3
LOCAL = mn.LocalSGD(lr=0.1, steps=STEPS, batch_size=4, privacy=mn.DPSGD(clip_norm=1.0, noise_multiplier=1.5, examples=12))
RULES = TEXT.replace("[data.heart]", "[data.data]").replace("epsilon = 10.0, delta = 1e-5", f"epsilon = 50.0, delta = {DELTA}")


class Site(test_records.Site):
    """Site 0 with an account, whose policy gives its data a budget."""

    def __init__(self, world, hash):
        super().__init__(world, hash)
        path = self.state.bundle_path(hash)
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"".join(world.service.blobs.read(world.study(hash).bundle)))
        self.account = Account(self.state, Policy.read(RULES))
        self.touched = lambda: None

    def work(self):
        inner = super().work()
        trainer = inner.trainer

        def touching():
            self.touched()
            return trainer()

        study = Accepted(self.known, self.plan, touching, inner.client)
        return SumWork(self.state, self.wire, study, self.account, inner.roster, inner.random, threading.Lock())

    @property
    def known(self):
        return self.state.study(self.hash)

    @property
    def books(self):
        return self.account.ledger.account("data")

    def epsilon(self, sums):
        """What so many sums cost; fewer than planned may have been stopped for what they gave, which costs more than if they had
        been planned, and at most what was planned.
        """
        event = self.plan.privacy.event
        assert event.count == ROUNDS * STEPS
        of = Repeated(event.event, sums * STEPS)
        whole = epsilon(event, DELTA, "add_or_remove").epsilon
        return pytest.approx(min(whole, epsilon(of, DELTA, "add_or_remove", adaptive=sums < ROUNDS).epsilon))


@pytest.fixture
def site(tmp_path):
    world = World(tmp_path, 4)
    study = study_of(
        rounds=ROUNDS, cohort=mn.Cohort(minimum=4), algorithm=mn.FedAvg(mn.LogisticModel(3), LOCAL, weighting="equal")
    )
    return Site(world, world.begin(study))


def released(site):
    """Take part in the open sum to its end."""
    id = site.world.study(site.hash).open
    others(site.world, site.hash)
    site.work().run(id)
    site.world.tick()


def abandoned(site):
    """Take part in the open sum, in which nobody else answers in time."""
    id, before = site.world.study(site.hash).open, len(site.wire.sent)

    def late():
        site.world.now += 200.0 if len(site.wire.sent) > before else 0.0

    site.wire.before_message = late
    site.work().run(id)
    site.wire.before_message = lambda: None
    site.world.tick()


def sent(site):
    """The digest of the vector that the site sent to the first sum, by its receipt."""
    rows, _ = stored(site.state.store)
    return json.loads(rows[0])["upload"]


def end(site):
    """The study is stopped, and the site hears of it."""
    if not site.world.study(site.hash).over:
        stop(site.world.rounds, site.hash, "person:ada")
    known = site.state.close(site.hash)
    if known is not None:
        site.account.finish(known)


def test_everything_is_set_aside_before_data_are_touched_and_spent_once_a_sum_is_released(site):
    seen = []
    site.touched = lambda: seen.append((site.books.spent, site.books.reserved))
    released(site)
    assert seen == [(0, site.epsilon(ROUNDS))]
    assert (site.books.spent, site.books.reserved) == (site.epsilon(ROUNDS), 0)
    released(site)
    released(site)
    end(site)
    assert (site.books.spent, site.books.reserved) == (site.epsilon(ROUNDS), 0)
    assert site.account.ledger.verify() > 0


def test_what_a_stopped_study_did_not_use_goes_back(site):
    released(site)
    end(site)
    assert (site.books.spent, site.books.reserved) == (site.epsilon(1), 0)
    end(site)  # hearing it twice changes nothing
    assert site.books.spent == site.epsilon(1)


def test_of_a_study_to_which_nothing_was_sent_everything_goes_back(site):
    site.touched = lambda: (_ for _ in ()).throw(mn.InvalidInput("the file is not there"))
    with pytest.raises(mn.InvalidInput, match="not there"):
        released(site)
    assert site.books.reserved == site.epsilon(ROUNDS)
    end(site)
    assert (site.books.spent, site.books.reserved, site.books.runs) == (0, 0, 0)


def test_what_was_sent_counts_although_the_server_says_that_no_sum_was_formed(site):
    released(site)
    abandoned(site)
    end(site)
    assert site.books.spent == site.epsilon(2)


def test_an_abandoned_sum_alone_counts_too(site):
    abandoned(site)
    assert (site.books.spent, site.books.reserved) == (site.epsilon(ROUNDS), 0)
    end(site)
    assert (site.books.spent, site.books.reserved) == (site.epsilon(1), 0)


def test_a_crash_leaves_everything_spent(site):
    id = site.world.study(site.hash).open

    def die():
        raise KeyboardInterrupt

    site.touched = die
    with pytest.raises(KeyboardInterrupt):
        site.work().run(id)
    site.state.store.close()
    again = Site(site.world, site.hash)
    assert again.books.reserved == again.epsilon(ROUNDS)
    released(again)  # under the same reservation
    assert (again.books.spent, again.books.reserved, again.books.runs) == (again.epsilon(ROUNDS), 0, 1)


def test_a_vector_is_kept_and_paid_for_in_one_step_before_it_is_sent(site, monkeypatch):
    """A site that dies in it finds neither, and does both again; nothing has left it."""
    id = site.world.study(site.hash).open
    rows = site.account.ledger.verify()
    inner = Account.commit

    def dies(self, known, task):
        pays = inner(self, known, task)

        def spend(transaction):
            pays(transaction)
            raise OSError("no space left")

        return spend

    monkeypatch.setattr(Account, "commit", dies)
    others(site.world, site.hash)
    with pytest.raises(OSError, match="no space"):
        site.work().run(id)
    (task,) = site.state.tasks()
    assert (site.books.spent, site.known.sent, task.upload) == (0, 0, "")
    assert site.account.ledger.verify() == rows + 1  # what was reserved
    monkeypatch.undo()
    site.work().run(id)
    assert (site.books.spent, site.known.sent) == (site.epsilon(ROUNDS), 1)


def test_another_vector_for_a_sum_that_was_paid_for_is_refused(site):
    """As after a restore of the site's folder without its ledger, or by a second process."""
    released(site)
    (task, known) = (Task(site.hash, site.hash, "train", 1, 0, 1, 4, "", upload="ab" * 32), site.known)
    rows = site.account.ledger.verify()
    other, same = site.account.commit(known, task), site.account.commit(known, replace(task, upload=sent(site)))
    with pytest.raises(Refused, match="released under reservation"), site.state.store.transaction() as transaction:
        other(transaction)
    with site.state.store.transaction() as transaction:
        same(transaction)
    assert site.account.ledger.verify() == rows


def test_a_reservation_that_the_site_died_before_noting_is_its_own(site):
    def forget():  # as if it had died in between
        site.state.change_study(site.hash, lambda known: replace(known, reservation="", steps=0))

    site.account.reserve(site.known, site.plan)
    assert site.known.reservation
    forget()
    assert not site.known.reservation
    assert site.account.reserve(site.known, site.plan).reservation
    assert site.books.runs == 1
    forget()
    end(site)
    assert (site.books.spent, site.books.reserved, site.books.runs) == (0, 0, 0)


def test_of_two_reservations_of_one_study_there_is_one(site):
    """One release for each sum is reserved, and no more are made under it."""
    released(site)
    (one,) = site.account.ledger.unsettled()
    assert (one.releases, one.most, one.study) == (1, ROUNDS, site.hash)


def test_a_server_that_asks_for_more_sums_than_the_study_accounts_is_refused(site):
    site.state.change_study(site.hash, lambda known: replace(known, sent=ROUNDS))
    with pytest.raises(ProtocolAbort, match="accounts 3 releases"):
        site.work().run(site.world.study(site.hash).open)
    assert site.wire.sent == []


def test_while_a_sum_is_under_way_nothing_goes_back(site):
    id = site.world.study(site.hash).open
    site.wire.before_message = lambda: (_ for _ in ()).throw(test_records.Away("gone")) if site.wire.sent else None
    with pytest.raises(test_records.Away):
        site.work().run(id)  # sent, and the end not heard
    end(site)
    assert site.books.spent == site.epsilon(ROUNDS)


def test_a_study_that_is_settled_early_waits_for_the_sum_that_is_under_way(site):
    site.wire.before_message = lambda: (_ for _ in ()).throw(test_records.Away("gone")) if site.wire.sent else None
    with pytest.raises(test_records.Away):
        site.work().run(site.world.study(site.hash).open)
    assert any(task.study == site.hash for task in site.state.tasks())
    site.account.finish(site.known)
    assert site.books.spent == site.epsilon(ROUNDS)
    assert site.account.ledger.running(site.account.ledger.find(site.known.reservation)[0])


def test_a_server_that_ends_a_study_and_then_asks_on_gets_nothing(site):
    """What was given back may be spent by another study by then."""
    released(site)
    known = site.state.close(site.hash)  # the server says that it is over, which is not so
    site.account.finish(known)
    assert site.books.spent == site.epsilon(1)
    sent, id = len(site.wire.sent), site.world.study(site.hash).open
    with pytest.raises(ProtocolAbort, match="after the end of its study"):
        site.work().run(id)
    with pytest.raises(ProtocolAbort, match="settled"):
        site.account.reserve(site.known, site.plan)
    assert len(site.wire.sent) == sent
    assert site.books.spent == site.epsilon(1)


def test_a_study_does_not_end_while_a_sum_is_under_way(site):
    id = site.world.study(site.hash).open
    site.wire.before_message = lambda: (_ for _ in ()).throw(test_records.Away("gone"))
    with pytest.raises(test_records.Away):
        site.work().run(id)
    assert site.state.close(site.hash) is None
    assert not site.known.over


def test_what_a_thread_still_has_in_hand_does_not_bring_back_an_earlier_state(site):
    """The server holds back its answer to a decision while a sum runs: the sum stays counted."""
    released(site)
    stale = replace(site.known, round=0, sent=0, told=False)
    site.state.change_study(stale.hash, lambda known: replace(known, told=True))
    assert (site.known.round, site.known.sent, site.known.told) == (1, 1, True)
