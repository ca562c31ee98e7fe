"""Study files: loading one, what travels with it, running it, and showing its result."""
