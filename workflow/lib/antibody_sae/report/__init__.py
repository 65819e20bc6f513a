"""The report of a run: headline figures, tables, pictures and the page."""
