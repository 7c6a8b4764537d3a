"""One step in step.py, the loop around it in loop.py, and what they need."""
