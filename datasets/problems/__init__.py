"""A model with its batches, loss and metric; families of tasks are made from them."""
