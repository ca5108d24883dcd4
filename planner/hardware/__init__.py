"""Devices and links: what a GPU or a CPU does in a second, from data sheets or measured."""
