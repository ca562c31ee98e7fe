"""What Alembic runs to bring a store's tables up to date."""
