"""Sections of the Trace page: effects, circuits and their drafts."""
