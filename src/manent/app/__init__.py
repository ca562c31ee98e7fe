"""The command line: its commands, study files, and the demonstration. Here, strings become classes."""
