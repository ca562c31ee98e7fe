"""A site: its own rules, its own store, and an agent that asks the server for work."""
