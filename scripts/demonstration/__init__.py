"""The demonstration behind ``scripts/demo``: two hosts, real daemons, real applications."""
