"""What travels between server, sites and researchers."""
