"""In the container: a request becomes a model, a plan, commands, and a backend watched while it serves."""
