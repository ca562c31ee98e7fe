"""What the parties of every summation share: the wire format and its fields, the roster, the cohort, and the call to a sum."""
