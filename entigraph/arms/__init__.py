"""Ways to continue a pretraining, side by side, and the toy world's library."""
