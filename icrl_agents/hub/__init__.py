"""Checkpoints: folders on disk, bundled agents, and the Hugging Face Hub."""
