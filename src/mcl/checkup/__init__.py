"""What ``mcl doctor`` looks at, one finding a file: a table and a verdict."""
