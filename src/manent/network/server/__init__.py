"""The server of a federation. All it knows is in its store, so any process of it may die at any moment, and another goes on."""
