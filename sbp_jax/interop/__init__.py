"""Exchange with other stacks."""
