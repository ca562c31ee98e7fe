"""What the parties of every summation share: the wire format, its fields, and the call to a sum."""
