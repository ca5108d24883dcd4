"""Memory of a rank by cause: state to the byte, the rest as upper bounds."""
