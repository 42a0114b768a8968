"""Results over commits: kept as JSON lines in a folder or on a git branch, and the steps in them."""
