"""Reads run folders only, and writes results.json, report.html, report.md and tables as CSV."""
