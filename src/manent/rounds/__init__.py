"""Both halves of a round, each written once: engines, servers and sites call these."""
