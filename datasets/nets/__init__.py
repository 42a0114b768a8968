"""What fields and models are made of: layers, flows, recurrent cells."""
