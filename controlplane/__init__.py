"""The control plane: broker, daemon, configuration, policy and the command line."""
