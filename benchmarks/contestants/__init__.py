"""The contestants; each module is imported in its own process."""
