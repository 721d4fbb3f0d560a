"""`python -m icrl_agents.cli`, which `accelerate launch -m icrl_agents.cli` starts too."""

from icrl_agents.cli.app import main

if __name__ == "__main__":
    main()
