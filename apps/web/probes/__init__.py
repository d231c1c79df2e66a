"""Sections of the Probes page."""
