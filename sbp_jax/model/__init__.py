"""The model in transformer.py, its attention kernels, its loss."""
