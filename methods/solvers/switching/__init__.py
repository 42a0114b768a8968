"""Steps that are each one of two methods, an explicit or an implicit one: when which is taken, and its steps."""
