"""Detectors as files for other runtimes, checked against the original before they are handed out."""
