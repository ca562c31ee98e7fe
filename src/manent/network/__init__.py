"""A study between organisations: a server, and sites that keep their own rules."""
