"""Pure numbers: intervals, tests, the accuracy matrix, measures of texts."""
