"""A study's own code, in a process that can do nothing but compute."""
