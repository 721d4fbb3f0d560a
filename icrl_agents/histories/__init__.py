"""Histories of learning: recorder, HDF5 store and store writer."""
