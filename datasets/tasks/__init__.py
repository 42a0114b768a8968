"""Named experiments: one file a task or a family of tasks."""
