"""Study of memory: retention of rewards over histories, and interventions on latents."""
