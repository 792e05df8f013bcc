"""A detector behind a small HTTP service."""
