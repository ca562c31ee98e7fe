"""A release on a secret random part of the units, and the ways to draw it: one file each."""
