"""The site's side: its agent, its state, and its part in sums."""
