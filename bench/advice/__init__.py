"""Answers for people: methods compared and explained on a task or a model."""
