"""OpenSSH as a subprocess: the only room that runs ssh."""
