"""Charts as data, and how they are drawn, listed and exported."""
