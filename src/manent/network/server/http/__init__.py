"""The server's HTTP face: the application, its routes, and connections."""
