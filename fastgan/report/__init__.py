"""Pictures and pages: PNG grids of samples, and the self-contained HTML report of a run."""
