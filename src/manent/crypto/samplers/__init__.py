"""Exact samplers over whole numbers: what a guarantee rests on is drawn as its theorem says."""
