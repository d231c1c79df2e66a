"""Sections of the Network page."""
