"""Exact samplers of whole numbers: whatever a privacy guarantee rests on is drawn by the very law that its theorem assumes."""
