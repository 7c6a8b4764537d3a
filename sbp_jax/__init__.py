"""Continually self-improving language models on JAX: the trainer and Synthetic Bootstrapped
Pretraining.
"""
