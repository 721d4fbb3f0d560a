"""Checkpoints: folders, bundled agents and the Hugging Face Hub."""
