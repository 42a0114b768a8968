"""What gradient methods do where every sample has its own steps: replays by rank, backward solves of its own."""
