"""What this host is, can do, and is asked to do: devices, routes, neighbours."""
