"""Sparse autoencoders for antibody language models: harvest, train, associate, steer, report."""

__version__ = "0.2.0"
