"""The report: one HTML file with figures, charts and a browser of rows, which needs no network."""
