"""Published experiments run again: one file a paper, and `cells.py`, what they share."""
