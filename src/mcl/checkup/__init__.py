"""What ``mcl doctor`` looks at, one part a file; each part is a table and a verdict."""
