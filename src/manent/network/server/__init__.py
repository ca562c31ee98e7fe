"""The server of a federation: the fold of what is in its store; any process of it may die at any moment."""
