"""What users bring: files with classes of their own, and models."""
