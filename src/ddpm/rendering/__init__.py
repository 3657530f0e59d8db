"""HTML pages without outside references: escaped templates, charts as SVG, and pictures as data."""
