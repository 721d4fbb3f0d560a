"""Histories of learning: the recorder, the store and its writer."""
