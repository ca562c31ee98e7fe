"""Where receipts come from: a site's folder, or a file that `manent receipts export` wrote."""

from __future__ import annotations

from pathlib import Path

from manent.core.errors import InvalidInput


def of_folder(folder: Path, noted: str | None) -> tuple[tuple[bytes, ...], str, bytes]:
    """A site's signed receipts, in order; the hash of the last one; and the site's public key, 32 bytes.

    Args:
        noted: "COUNT:HASH" as `verify` printed it earlier; the store must still hold those.

    Raises InvalidInput where the folder is no site's.
    """
    from manent.network.site.state import IDENTITY, STORE
    from manent.network.trust import receipts
    from manent.network.trust.identity import Identity
    from manent.storage import open_store

    if not (folder / IDENTITY).is_file() or not (folder / STORE).is_file():
        raise InvalidInput(f"{folder} is no site's folder; name the one that `manent join` or `manent site` was given.")
    store = open_store(folder / STORE)
    rows, last = receipts.stored(store, noted)
    return rows, last, Identity.load(folder / IDENTITY).signing_key.public


def of_file(path: Path, public: str | None, noted: str | None) -> tuple[tuple[bytes, ...], str | None, bytes]:
    """The receipts of a file; no hash of the last one, as a file has none; and the public key that was given.

    Raises InvalidInput for a missing file, without a key, and with `noted`, which needs a folder.
    """
    if not path.exists():
        raise InvalidInput(f"There is no {path}; name a site's folder, or a file that `manent receipts export` wrote.")
    if public is None or noted is not None:
        raise InvalidInput(
            "For exported receipts, give the site's key with --public, as its people read it out to you, and no --noted."
        )
    return tuple(path.read_bytes().splitlines()), None, key(public)


def key(public: str) -> bytes:
    """A site's public key, 32 bytes, from its hexadecimal digits. Raises InvalidInput for anything else."""
    from manent.network.trust.identity import from_hex

    return from_hex("A site's public key", public.strip().lower(), 32)
