"""Whom and what each side trusts: identities, rosters, signatures, certificates, policies, and records of what was done."""
