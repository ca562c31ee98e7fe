"""Whom a server and a site believe: identities, rosters, signatures, TLS pins, policies, receipts."""
