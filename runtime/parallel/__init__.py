"""Process groups, devices, pipeline P2P and the 1F1B schedule."""
