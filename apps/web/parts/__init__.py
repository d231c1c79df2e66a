"""Sections of the Parts page."""
