"""Sections of the Findings page, and the sessions that are opened there."""
