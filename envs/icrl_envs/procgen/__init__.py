"""The 16 games of Procgen as families; Procgen itself is imported when an environment is made."""
