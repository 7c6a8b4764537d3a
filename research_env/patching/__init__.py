"""Changes of code as a model or a program writes them, applied to a tree or refused."""
