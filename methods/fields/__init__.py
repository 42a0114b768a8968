"""The user's field: what it holds, what it draws, what its graph reaches, and the state of autocast around it."""
