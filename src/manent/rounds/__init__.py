"""Both halves of a round, each written once. Simulations, servers and sites call the same functions."""
