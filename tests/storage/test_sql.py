"""What stores in SQL do beyond every store."""

from __future__ import annotations

import sqlite3
import stat
import subprocess
import sys
import threading

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory

import manent as mn
from manent.storage import open_store, schema, sql


@pytest.fixture(params=["SQLite", "PostgreSQL"])
def place(request, tmp_path):
    return str(tmp_path / "store.db") if request.param == "SQLite" else request.getfixturevalue("postgres_url")


def raw(place):
    """A connection beside the store's."""
    url = sa.make_url(place) if "://" in place else sa.URL.create("sqlite", database=place)
    if url.drivername == "postgresql":
        url = url.set(drivername="postgresql+psycopg")
    return sa.create_engine(url, poolclass=sa.NullPool).connect()


def by_hand(place, statement):
    with raw(place) as connection:
        connection.exec_driver_sql(statement)
        connection.commit()


@pytest.mark.parametrize("statement", ["DELETE FROM logs", "UPDATE logs SET log = 'x'"])
def test_rows_of_a_log_resist_a_slip_of_the_hand(place, statement):
    store = open_store(place)
    with store.transaction() as t:
        t.append("log", b"row")
    for each in [statement, "TRUNCATE logs"] if "://" in place else [statement]:
        with pytest.raises(sa.exc.IntegrityError, match="only grows"):
            by_hand(place, each)
    with store.snapshot() as s:
        assert list(s.rows("log")) == [b"row"]
    store.close()


def test_a_store_that_stays_locked_is_an_abort(place):
    holder, waiter = open_store(place), open_store(place, timeout=0.1)
    with holder.transaction() as t:
        t.append("log", b"first")
        with pytest.raises(mn.ProtocolAbort, match="locked"), waiter.transaction():
            pass
        with waiter.snapshot() as s:  # readers do not wait
            assert s.count("log") == 0
    with waiter.transaction() as t:
        assert t.append("log", b"second") == 1
    holder.close()
    waiter.close()


def test_a_thread_that_waits_too_long_is_told_the_same(place):
    store, held, done, found = open_store(place, timeout=0.1), threading.Event(), threading.Event(), []

    def hold():
        with store.transaction():
            held.set()
            done.wait(10)

    thread = threading.Thread(target=hold)
    thread.start()
    held.wait(10)
    with pytest.raises(mn.ProtocolAbort, match="locked") as caught, store.transaction():
        found.append("never")
    done.set()
    thread.join()
    assert (found, "0.1 s" in str(caught.value)) == ([], True)
    store.close()


def test_more_threads_than_connections(place):
    store = open_store(place)

    def work():
        for _ in range(3):
            with store.transaction() as t:
                t.append("log", b"x")
            with store.snapshot() as s:
                s.count("log")

    threads = [threading.Thread(target=work) for _ in range(30)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with store.snapshot() as s:
        assert s.count("log") == 90
    store.close()


def test_the_tables_are_those_that_the_migrations_make(place):
    store = open_store(place)
    with raw(place) as connection:
        context = MigrationContext.configure(connection, opts={"version_table": schema.VERSION_TABLE})
        assert context.get_current_revision() == schema.HEAD
        assert compare_metadata(context, schema.METADATA) == []
    store.close()


def test_the_newest_migration_is_the_one_that_is_looked_for():
    config = Config()
    config.set_main_option("script_location", "manent:storage/migrations")
    config.set_main_option("path_separator", "os")
    assert ScriptDirectory.from_config(config).get_heads() == [schema.HEAD]


def test_a_newer_version_is_refused(place):
    open_store(place).close()
    by_hand(place, "UPDATE manent_version SET version_num = '9999'")
    with pytest.raises(mn.InvalidInput, match="newer manent"):
        open_store(place)


def test_tables_of_another_program_are_refused_and_left_alone(place):
    by_hand(place, "CREATE TABLE documents (name TEXT)")
    with pytest.raises(mn.InvalidInput, match="another program"):
        open_store(place)
    with raw(place) as connection:
        assert sa.inspect(connection).get_table_names() == ["documents"]


def test_a_migration_that_fails_leaves_nothing(place, monkeypatch):
    def fail(*_):
        raise mn.ProtocolAbort("the power is lost")

    with monkeypatch.context() as changed:
        changed.setattr(sql.Sqlite, "mark", fail)
        changed.setattr(sql.Postgres, "mark", fail)
        with pytest.raises(mn.ProtocolAbort, match="power"):
            open_store(place)
    with raw(place) as connection:
        assert sa.inspect(connection).get_table_names() == []
    with open_store(place).transaction() as t:
        assert t.append("log", b"row") == 0


@pytest.mark.parametrize("name", ["\ud800", "\0"])
def test_names_that_are_no_text_are_refused(place, name):
    store = open_store(place)
    for change in (lambda t: t.append(name, b"row"), lambda t: t.put(name, b"document")):
        if name == "\0" and "://" not in place:
            continue  # SQLite takes it
        with pytest.raises(mn.InvalidInput, match="text|cannot hold"), store.transaction() as t:
            change(t)
    with store.transaction() as t:
        assert t.append("log", b"row") == 0
    store.close()


def test_a_step_that_failed_is_not_passed_over(place):
    """Whoever catches its error does not commit the rest: PostgreSQL would undo all of it without a word."""
    store = open_store(place)

    def careless() -> None:
        with store.transaction() as t:
            t.append("log", b"lost")
            with pytest.raises(mn.InvalidInput):
                t.put("\ud800", b"document")
            with pytest.raises(mn.ProtocolAbort, match="begin another"):
                t.append("log", b"lost as well")

    with pytest.raises(mn.ProtocolAbort, match="nothing of it was kept"):
        careless()
    with store.snapshot() as s:
        assert s.count("log") == 0
    store.close()


@pytest.mark.parametrize(
    "url", ["mysql://host/name", "sqlite://", "sqlite://host/name", "postgresql://host", "redis://host", "postgresql://h:port/x"]
)
def test_other_urls_are_refused_without_their_password(url):
    with pytest.raises(mn.InvalidInput, match="Expected sqlite:///path or postgresql://") as caught:
        open_store(url.replace("://", "://someone:secret@") if "sqlite" not in url else url)
    assert "secret" not in str(caught.value)


def test_a_password_is_never_shown(postgres_server):
    url = postgres_server.url("none").replace("manent@", "manent:secret@") + "&passfile=/a/secret"
    with pytest.raises(mn.InvalidInput, match="Cannot open") as caught:
        open_store(url)
    assert "secret" not in str(caught.value)


def test_what_is_kept_needs_no_sqlalchemy_until_it_is_opened():
    code = "import sys, manent, manent.storage; print(sorted({'sqlalchemy', 'alembic', 'psycopg', 'obstore'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"


# SQLite.


def test_the_file_is_for_its_owner_alone(tmp_path):
    path = tmp_path / "new folder" / "store.db"
    store = open_store(path)
    with store.transaction() as t:
        t.append("log", b"row")
    assert {file.name for file in path.parent.iterdir()} >= {"store.db", "store.db-wal"}
    for file in path.parent.iterdir():
        assert stat.S_IMODE(file.stat().st_mode) == 0o600, file
    store.close()
    path.chmod(0o644)
    open_store(path).close()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_url_and_a_path_name_the_same_file(tmp_path):
    path = tmp_path / "a file?with#signs%20.db"
    with open_store(path).transaction() as t:
        t.append("log", b"row")
    with open_store(str(path)).snapshot() as s:
        assert s.count("log") == 1
    plain = tmp_path / "plain.db"
    open_store(f"sqlite:///{plain}").close()
    assert plain.is_file()


def test_it_is_in_wal_mode_and_synchronises_fully(tmp_path):
    store = open_store(tmp_path / "store.db")
    for _ in range(2):
        with store._engine.connect() as connection, store._engine.connect() as second:
            for each in (connection, second):
                assert each.exec_driver_sql("PRAGMA journal_mode").scalar() == "wal"
                assert each.exec_driver_sql("PRAGMA synchronous").scalar() == 2
        store._engine.dispose()
    store.close()


def test_other_files_are_refused(tmp_path):
    text = tmp_path / "notes.txt"
    text.write_text("not a database, and long enough to be taken for a damaged one " * 20)
    with pytest.raises(mn.InvalidInput, match="not a sound store"):
        open_store(text)
    other = sqlite3.connect(tmp_path / "other.db")
    other.execute("CREATE TABLE people (name TEXT)")
    other.commit()
    other.close()
    with pytest.raises(mn.InvalidInput, match="another program"):
        open_store(tmp_path / "other.db")
    with pytest.raises(mn.InvalidInput, match="Cannot open"):
        open_store(tmp_path)


def test_a_row_larger_than_sqlite_holds_is_refused(tmp_path):
    store = open_store(tmp_path / "store.db")
    with store._engine.connect() as connection:
        connection.connection.dbapi_connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, 1_000_000)
    with pytest.raises(mn.InvalidInput, match="as a blob"), store.transaction() as t:
        t.append("log", bytes(2_000_000))
    store.close()


# PostgreSQL.


def test_a_store_outlives_its_postgresql(postgres_server, postgres_url):
    """The server is killed and started again: what was committed is there, and the store that was open goes on."""
    store = open_store(postgres_url)
    with store.transaction() as t:
        t.append("log", b"kept")
    postgres_server.stop()
    with pytest.raises(mn.ProtocolAbort), store.transaction() as t:
        t.append("log", b"never")
    with pytest.raises(mn.InvalidInput, match="Cannot open"):
        open_store(postgres_url)
    postgres_server.start()
    with store.transaction() as t:
        assert t.append("log", b"next") == 1

    def interrupted() -> None:
        with store.transaction() as t:
            t.append("log", b"lost")
            postgres_server.stop()
            postgres_server.start()
            for _ in range(2):
                with pytest.raises(mn.ProtocolAbort):
                    t.append("log", b"lost too")

    with pytest.raises(mn.ProtocolAbort, match="nothing of it was kept"):
        interrupted()
    with store.snapshot() as s:
        assert list(s.rows("log")) == [b"kept", b"next"]
    store.close()


def test_a_commit_whose_connection_is_lost_says_that_its_end_is_unknown(postgres_url):
    store = open_store(postgres_url)
    others = "FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"

    def cut_off() -> None:
        with store.transaction() as t:
            t.append("log", b"row")
            by_hand(postgres_url, f"SELECT pg_terminate_backend(pid) {others}")

    with pytest.raises(mn.ProtocolAbort, match="not known"):
        cut_off()
    with store.transaction() as t:
        assert t.count("log") in (0, 1)
    store.close()


def test_transactions_are_serialisable_and_durable(postgres_url):
    store = open_store(postgres_url)
    with store.transaction() as t:
        show = {
            name: t._connection.exec_driver_sql(f"SHOW {name}").scalar()
            for name in ("transaction_isolation", "synchronous_commit")
        }
        assert show == {"transaction_isolation": "serializable", "synchronous_commit": "on"}
    with store.snapshot() as s:
        assert s._connection.exec_driver_sql("SHOW transaction_isolation").scalar() == "repeatable read"
        assert s._connection.exec_driver_sql("SHOW transaction_read_only").scalar() == "on"
    store.close()


def test_a_database_in_another_encoding_is_refused(postgres_server):
    with pytest.raises(mn.InvalidInput, match="UTF8"):
        open_store(postgres_server.database("LATIN1"))


def test_a_database_that_is_not_there_says_so(postgres_server):
    with pytest.raises(mn.InvalidInput, match='Cannot open.*"none" does not exist'):
        open_store(postgres_server.url("none"))


def test_without_its_driver_postgresql_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(mn.MissingExtra, match=r"manent\[server\]"):
        open_store("postgresql://host/name")
