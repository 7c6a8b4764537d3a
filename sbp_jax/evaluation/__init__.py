"""Scores of models: lm-eval's benchmarks on a model of ours, perplexity, comparisons."""
