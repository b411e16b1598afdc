"""The report: what a run, a sweep or a pipeline left in its folder, as one page that needs no network."""
