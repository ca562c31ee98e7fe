"""`python -m manent`: the same program as `manent`."""

from __future__ import annotations

from manent.app.main import main

if __name__ == "__main__":
    main()
